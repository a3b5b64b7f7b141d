// Command check reads a file of deploy/ with the parser of whoever it is for, and
// prints as JSON what it found:
//
//	check rules FILE          alert rules, as Prometheus reads them
//	check queries             expressions on standard input, one on each line
//	check kubernetes FILE     manifests, strictly, as Kubernetes' own types
//	check compose FILE        a project, as Docker Compose reads it
//	check containerfile FILE  a container file, as BuildKit reads and lints it
//
// It is a module of its own, so that these parsers weigh on nobody.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "queries" {
		return print(queries(os.Stdin))
	}
	if len(args) != 2 {
		return errors.New("usage: check KIND FILE")
	}
	switch args[0] {
	case "rules":
		return print(rules(args[1]))
	case "kubernetes":
		return print(kubernetes(args[1]))
	case "compose":
		return print(compose(args[1]))
	case "containerfile":
		return print(containerfile(args[1]))
	}
	return fmt.Errorf("no kind %q", args[0])
}

func print(v any, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(v)
}

// rule is an alert.
type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func rules(file string) (out []rule, err error) {
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			out = append(out, rule{r.Alert, r.Expr, r.For.String(), r.Labels, r.Annotations})
		}
	}
	return out, nil
}

// selector is what an expression reads: a metric, with the labels that it is
// matched by, and their values where they are matched as they are.
type selector struct {
	Metric string            `json:"metric"`
	Labels []string          `json:"labels"`
	Equal  map[string]string `json:"equal"`
}

// query is one expression.
type query struct {
	Expr      string     `json:"expr"`
	Selectors []selector `json:"selectors"`
	Grouped   []string   `json:"grouped"` // by which labels
}

func queries(r io.Reader) (out []query, err error) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		q := query{Expr: lines.Text()}
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(q.Expr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", q.Expr, err)
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			switch n := n.(type) {
			case *parser.VectorSelector:
				s := selector{Metric: n.Name, Equal: map[string]string{}}
				for _, m := range n.LabelMatchers {
					if m.Name == "__name__" {
						continue
					}
					s.Labels = append(s.Labels, m.Name)
					if m.Type.String() == "=" {
						s.Equal[m.Name] = m.Value
					}
				}
				q.Selectors = append(q.Selectors, s)
			case *parser.AggregateExpr:
				q.Grouped = append(q.Grouped, n.Grouping...)
			case *parser.BinaryExpr:
				if n.VectorMatching != nil {
					q.Grouped = append(q.Grouped, n.VectorMatching.MatchingLabels...)
				}
			}
			return nil
		})
		out = append(out, q)
	}
	return out, nil
}

func kubernetes(file string) (out []any, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for _, part := range bytes.Split(text, []byte("\n---\n")) {
		var of struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(part, &of); err != nil {
			return nil, err
		}
		var into any
		switch of.APIVersion + " " + of.Kind {
		case "v1 Namespace":
			into = new(corev1.Namespace)
		case "v1 ServiceAccount":
			into = new(corev1.ServiceAccount)
		case "v1 ConfigMap":
			into = new(corev1.ConfigMap)
		case "v1 Service":
			into = new(corev1.Service)
		case "apps/v1 Deployment":
			into = new(appsv1.Deployment)
		case "policy/v1 PodDisruptionBudget":
			into = new(policyv1.PodDisruptionBudget)
		case "networking.k8s.io/v1 NetworkPolicy":
			into = new(networkingv1.NetworkPolicy)
		default:
			return nil, fmt.Errorf("nothing is known of %s %s", of.APIVersion, of.Kind)
		}
		text, err := yaml.YAMLToJSONStrict(part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", of.Kind, err)
		}
		// As the API server reads it: other cases of a name are other names.
		unknown, err := kjson.UnmarshalStrict(text, into)
		if err := errors.Join(append(unknown, err)...); err != nil {
			return nil, fmt.Errorf("%s: %w", of.Kind, err)
		}
		out = append(out, into)
	}
	return out, nil
}

func compose(file string) (any, error) {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithoutEnvironmentResolution)
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

// stage is a stage of a container file.
type stage struct {
	Name         string     `json:"name"`
	Base         string     `json:"base"`
	Instructions []string   `json:"instructions"`
	Exec         [][]string `json:"exec"` // ENTRYPOINT, CMD and HEALTHCHECK, which must not need a shell
}

func containerfile(file string) (out []stage, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	parsed, err := dockerfile.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var warned []error
	warn := func(name, description, url, message string, _ []dockerfile.Range) {
		warned = append(warned, fmt.Errorf("%s: %s", name, message))
	}
	stages, _, err := instructions.Parse(parsed.AST, linter.New(&linter.Config{Warn: warn}))
	if err != nil {
		return nil, err
	}
	for _, s := range stages {
		made := stage{Name: s.Name, Base: s.BaseName}
		for _, c := range s.Commands {
			made.Instructions = append(made.Instructions, strings.ToUpper(c.Name()))
			switch c := c.(type) {
			case *instructions.EntrypointCommand:
				if !c.PrependShell {
					made.Exec = append(made.Exec, c.CmdLine)
				}
			case *instructions.CmdCommand:
				if !c.PrependShell {
					made.Exec = append(made.Exec, c.CmdLine)
				}
			case *instructions.HealthCheckCommand:
				made.Exec = append(made.Exec, c.Health.Test)
			case *instructions.UserCommand:
				made.Name = strings.TrimSpace(made.Name + " user=" + c.User)
			}
		}
		out = append(out, made)
	}
	return out, errors.Join(warned...)
}
