package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/testkit"
)

// deployFolder is what operators take, from this folder.
const deployFolder = "../../deploy"

func deployFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deployFolder, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantSettings reads an environment as serve does. Paths of secrets are those of a
// machine that is not here: they are replaced by files.
func wantSettings(t *testing.T, env map[string]string) settings {
	t.Helper()
	secrets := map[string]string{
		"SALLYPORT_DATABASE_FILE":    "postgres://sallyport:secret@database/sallyport?sslmode=disable",
		"SALLYPORT_KEYS_MASTER_FILE": strings.Repeat("A", 43) + "=",
		"SALLYPORT_REDIS_FILE":       "redis://redis:6379/0",
	}
	var lines []string
	for _, name := range sortedKeys(env) {
		text := env[name]
		if secret, ok := secrets[name]; ok {
			text = filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(text, []byte(secret+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		lines = append(lines, name+"="+text)
	}
	s, err := loadSettings("", lines, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDeploySystemd has systemd itself judge the unit, and keeps the page what the
// file says.
func TestDeploySystemd(t *testing.T) {
	unit := deployFile(t, "systemd/sallyport.service")
	page, err := os.ReadFile(filepath.Join(docsFolder, "running.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "```ini\n"+unit+"```\n") {
		t.Error("docs/running.md does not show deploy/systemd/sallyport.service as it is")
	}
	env, values := map[string]string{}, map[string][]string{}
	for line := range strings.Lines(unit) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || name[0] == '#' {
			continue
		}
		values[name] = append(values[name], text)
		if v, of, ok := strings.Cut(text, "="); name == "Environment" && ok {
			env[v] = strings.ReplaceAll(of, "%d", "/run/credentials/sallyport.service")
		}
	}
	if s := wantSettings(t, env); s.text("data_dir") != "/var/lib/sallyport" {
		t.Errorf("the data folder is %s", s.text("data_dir"))
	}
	args := strings.Fields(values["ExecStart"][0])
	if err := checkCommand(args[1:]); err != nil || args[0] != "/usr/local/bin/sallyport" {
		t.Errorf("ExecStart=%v: %v", args, err)
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not here")
	}
	// It wants the program to be there.
	judge := func(text string) (string, error) {
		file := filepath.Join(t.TempDir(), "sallyport.service")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/usr/local/bin/sallyport", os.Args[0])), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
		if err != nil || len(out) > 0 {
			return string(out), fmt.Errorf("verify: %v", err)
		}
		out, err = exec.Command(analyze, "security", "--offline=true", "--no-pager", "--threshold=15", file).CombinedOutput()
		return string(out), err
	}
	if out, err := judge(unit); err != nil {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
	if _, err := judge(strings.ReplaceAll(unit, "CapabilityBoundingSet=\n", "")); err == nil {
		t.Error("without CapabilityBoundingSet it would be judged as good")
	}
	if _, err := judge(strings.ReplaceAll(unit, "ProtectSystem=strict", "ProtectSystem=sometimes")); err == nil {
		t.Error("a value that there is not would be judged as good")
	}
}

func TestDeployContainerfile(t *testing.T) {
	type stage struct {
		Name, Base   string
		Instructions []string
		Exec         [][]string
	}
	var stages []stage
	if err := testkit.Check(t, &stages, "", "containerfile", "Containerfile"); err != nil {
		t.Fatal(err)
	}
	last := stages[len(stages)-1]
	if last.Base != "scratch" || !strings.Contains(last.Name, "user=65532:65532") || slices.Contains(last.Instructions, "RUN") {
		t.Errorf("the last stage is %+v", last)
	}
	if len(last.Exec) != 3 || last.Exec[0][0] != "CMD" {
		t.Fatalf("commands: %q", last.Exec)
	}
	health, entry, serve := last.Exec[0][1:], last.Exec[1], last.Exec[2]
	if health[0] != entry[0] || len(entry) != 1 || checkCommand(health[1:]) != nil || checkCommand(serve) != nil {
		t.Errorf("commands: %q", last.Exec)
	}
	var linted any
	bad := filepath.Join(t.TempDir(), "Containerfile")
	if err := os.WriteFile(bad, []byte("FROM scratch as Build\nCMD sallyport serve\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testkit.Check(t, &linted, "", "containerfile", bad); err == nil {
		t.Error("a file that is to be complained about is not")
	}
}

// TestDeployBareRoot runs the static binary where there is nothing else, as in the
// container: no shell, no files, another user, and a root that it cannot write to.
func TestDeployBareRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can change the root")
	}
	root, err := os.MkdirTemp("/tmp", "sallyport-root.") // which others may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	build := exec.Command("go", "build", "-o", filepath.Join(root, "sallyport"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const nobody = 65532
	for name, mode := range map[string]os.FileMode{"": 0o755, "state": 0o700} {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "sallyport"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, "state"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	addr := freeAddress(t)
	command := func(args ...string) (*exec.Cmd, *bytes.Buffer) {
		c := exec.Command("/sallyport", args...)
		c.Dir, c.Env = "/", []string{"SALLYPORT_LISTEN=" + addr, "SALLYPORT_DATA_DIR=/state"}
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out := new(bytes.Buffer)
		c.Stdout, c.Stderr = out, out
		return c, out
	}
	server, log := command("serve")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	defer func() { _ = server.Process.Kill() }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		health, said := command("healthcheck", "--quiet")
		if err := health.Run(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			_ = server.Process.Kill()
			<-ended
			t.Fatalf("the health check says %s; the server: %s", said, log)
		}
	}
	res, err := http.Get("http://" + addr + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v: %s", err, log)
	}
	health, _ := command("healthcheck", "--quiet")
	if err := health.Run(); err == nil || health.ProcessState.ExitCode() != 6 {
		t.Errorf("the health check of nothing: %v", err)
	}
}

// closesQuestions is in nginx's configuration where it leads clients to Sallyport.
var closesQuestions = regexp.MustCompile(`location /forward-auth/ \{\s+return 404;\s+\}`)

// deployNginx returns what the balancer's configuration says of a directive.
func deployNginx(t *testing.T, directive string) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^\s*`+directive+`\s+([^;]+);`).FindAllStringSubmatch(deployFile(t, "nginx/nginx.conf"), -1) {
		out = append(out, m[1])
	}
	return out
}

func TestDeployCompose(t *testing.T) {
	type service struct {
		Environment map[string]string
		ReadOnly    bool     `json:"read_only"`
		CapDrop     []string `json:"cap_drop"`
		SecurityOpt []string `json:"security_opt"`
		MemLimit    string   `json:"mem_limit"`
		Privileged  bool
		NetworkMode string `json:"network_mode"`
		StopGrace   string `json:"stop_grace_period"`
		Ports       []struct {
			HostIP string `json:"host_ip"`
		}
		Volumes []struct {
			Type, Source, Target string
			ReadOnly             bool `json:"read_only"`
		}
		Networks map[string]*struct {
			Address string `json:"ipv4_address"`
		}
	}
	var project struct {
		Services map[string]service
		Networks map[string]struct{ Internal bool }
	}
	if err := testkit.Check(t, &project, "", "compose", "compose.yaml"); err != nil {
		t.Fatal(err)
	}
	upstream := deployNginx(t, "server")
	for i := range 3 {
		name := fmt.Sprint("node", i+1)
		n, ok := project.Services[name]
		if !ok || !n.ReadOnly || !slices.Equal(n.CapDrop, []string{"ALL"}) || !slices.Contains(n.SecurityOpt, "no-new-privileges:true") || n.MemLimit == "" || n.StopGrace == "" {
			t.Errorf("%s is %+v", name, n)
		}
		s := wantSettings(t, onlySallyport(n.Environment))
		if got := s.text("proxy.trusted"); got == "" || got != project.Services["nginx"].Networks["front"].Address {
			t.Errorf("%s believes %s, and nginx is %s", name, got, project.Services["nginx"].Networks["front"].Address)
		}
		if !strings.HasPrefix(upstream[i], name+":8080 ") {
			t.Errorf("nginx asks %s", upstream[i])
		}
	}
	for name, sv := range project.Services {
		if sv.Privileged || sv.NetworkMode != "" || sv.MemLimit == "" || !slices.Contains(sv.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may too much, or has no bound", name)
		}
		if len(sv.Ports) > 0 && (name != "nginx" || sv.Ports[0].HostIP != "127.0.0.1") {
			t.Errorf("%s publishes %+v", name, sv.Ports)
		}
		for _, v := range sv.Volumes {
			if v.Type == "bind" && !v.ReadOnly {
				t.Errorf("%s may write to %s", name, v.Source)
			}
			if v.Type == "bind" {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if _, front := sv.Networks["front"]; front && (name == "database" || name == "limits") {
			t.Errorf("%s can be reached from the front", name)
		}
	}
	if !project.Networks["back"].Internal {
		t.Error("the network of the database leads outside")
	}
	if got := deployNginx(t, "pid")[0]; !strings.HasPrefix(got, "/tmp/") {
		t.Errorf("nginx writes to %s, and its root is read-only", got)
	}
	if !closesQuestions.MatchString(deployFile(t, "nginx/nginx.conf")) {
		t.Error("clients of nginx can ask as proxies do")
	}
}

// onlySallyport leaves out what the Go runtime reads.
func onlySallyport(env map[string]string) map[string]string {
	out := map[string]string{}
	for name, text := range env {
		if strings.HasPrefix(name, envPrefix) {
			out[name] = text
		}
	}
	return out
}

// object is a manifest, as far as the test looks at it.
type object struct {
	Kind     string
	Metadata struct {
		Name, Namespace string
		Labels          map[string]string
	}
	Data map[string]string
	Spec json.RawMessage
}

func TestDeployKubernetes(t *testing.T) {
	var all []object
	if err := testkit.Check(t, &all, "", "kubernetes", "kubernetes/sallyport.yaml"); err != nil {
		t.Fatal(err)
	}
	of := func(kind string, into any) object {
		t.Helper()
		i := slices.IndexFunc(all, func(o object) bool { return o.Kind == kind })
		if i < 0 {
			t.Fatalf("there is no %s", kind)
		}
		if into != nil {
			if err := json.Unmarshal(all[i].Spec, into); err != nil {
				t.Fatal(err)
			}
		}
		if all[i].Metadata.Namespace != "sallyport" && kind != "Namespace" {
			t.Errorf("%s is in the namespace %q", kind, all[i].Metadata.Namespace)
		}
		return all[i]
	}
	type labels = map[string]string
	type probe struct {
		HTTPGet struct {
			Path string
			Port string
		}
		PeriodSeconds, FailureThreshold int
	}
	var d struct {
		Replicas int
		Selector struct{ MatchLabels labels }
		Template struct {
			Metadata struct{ Labels labels }
			Spec     struct {
				AutomountServiceAccountToken  *bool
				EnableServiceLinks            *bool
				TerminationGracePeriodSeconds int
				HostNetwork, HostPID, HostIPC bool
				SecurityContext               struct {
					RunAsNonRoot   bool
					RunAsUser      int
					SeccompProfile struct{ Type string }
				}
				Containers []struct {
					Env             []struct{ Name, Value string }
					SecurityContext struct {
						AllowPrivilegeEscalation *bool
						ReadOnlyRootFilesystem   bool
						Privileged               bool
						Capabilities             struct{ Add, Drop []string }
					}
					Resources                                   struct{ Limits, Requests map[string]string }
					LivenessProbe, ReadinessProbe, StartupProbe probe
					Ports                                       []struct {
						Name          string
						ContainerPort int
					}
					VolumeMounts []struct{ Name, MountPath string }
				}
				Volumes []map[string]any
			}
		}
	}
	of("Deployment", &d)
	pod := d.Template.Spec
	no := func(b *bool) bool { return b != nil && !*b }
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	c := pod.Containers[0]
	for what, holds := range map[string]bool{
		"restricted: not root":              pod.SecurityContext.RunAsNonRoot && pod.SecurityContext.RunAsUser > 0,
		"restricted: seccomp":               pod.SecurityContext.SeccompProfile.Type == "RuntimeDefault",
		"restricted: no escalation":         no(c.SecurityContext.AllowPrivilegeEscalation) && !c.SecurityContext.Privileged,
		"restricted: no capabilities":       slices.Equal(c.SecurityContext.Capabilities.Drop, []string{"ALL"}) && len(c.SecurityContext.Capabilities.Add) == 0,
		"restricted: nothing of the host's": !pod.HostNetwork && !pod.HostPID && !pod.HostIPC,
		"a root that is read-only":          c.SecurityContext.ReadOnlyRootFilesystem,
		"no token of the cluster's":         no(pod.AutomountServiceAccountToken),
		"no variables of services":          no(pod.EnableServiceLinks),
		"a bound of memory":                 c.Resources.Limits["memory"] != "" && c.Resources.Requests["cpu"] != "",
		"alive by /livez":                   c.LivenessProbe.HTTPGet.Path == "/livez",
		"ready by /readyz":                  c.ReadinessProbe.HTTPGet.Path == "/readyz" && c.StartupProbe.HTTPGet.Path == "/readyz",
		"time to shut down":                 pod.TerminationGracePeriodSeconds > int(shutdownTimeout/time.Second)+5,
		"three nodes":                       d.Replicas == 3,
	} {
		if !holds {
			t.Errorf("the deployment has not: %s", what)
		}
	}
	if ns := of("Namespace", nil); ns.Metadata.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Error("the namespace does not enforce it")
	}

	env := onlySallyport(of("ConfigMap", nil).Data)
	for _, v := range c.Env {
		env[v.Name] = v.Value
	}
	s := wantSettings(t, env)
	ports := map[string]string{}
	for _, p := range c.Ports {
		ports[p.Name] = fmt.Sprint(p.ContainerPort)
	}
	for key, port := range map[string]string{"listen": ports["http"], "metrics.listen": ports["metrics"]} {
		if !strings.HasSuffix(s.text(key), ":"+port) {
			t.Errorf("%s is %s, and the port %s", key, s.text(key), port)
		}
	}
	mounted := map[string]bool{}
	for _, m := range c.VolumeMounts {
		mounted[m.MountPath] = true
	}
	if !mounted[s.text("data_dir")] || !mounted["/tmp"] || !mounted["/run/sallyport"] || len(pod.Volumes) != len(mounted) {
		t.Errorf("mounted is %v", mounted)
	}

	var pdb struct {
		MinAvailable int
		Selector     struct{ MatchLabels labels }
	}
	of("PodDisruptionBudget", &pdb)
	var sv struct {
		Selector labels
		Ports    []struct{ TargetPort string }
	}
	of("Service", &sv)
	var np struct {
		PodSelector struct{ MatchLabels labels }
		Ingress     []struct {
			From  []any
			Ports []struct{ Port string }
		}
	}
	of("NetworkPolicy", &np)
	for kind, selects := range map[string]labels{
		"Deployment": d.Selector.MatchLabels, "PodDisruptionBudget": pdb.Selector.MatchLabels, "Service": sv.Selector, "NetworkPolicy": np.PodSelector.MatchLabels,
	} {
		if len(selects) == 0 || fmt.Sprint(selects) != fmt.Sprint(d.Template.Metadata.Labels) {
			t.Errorf("%s selects %v, and pods have %v", kind, selects, d.Template.Metadata.Labels)
		}
	}
	if pdb.MinAvailable != d.Replicas-1 || len(sv.Ports) != 1 || sv.Ports[0].TargetPort != "http" {
		t.Errorf("%+v, %+v", pdb, sv)
	}
	for _, rule := range np.Ingress {
		if len(rule.From) == 0 || len(rule.Ports) != 1 || ports[rule.Ports[0].Port] == "" {
			t.Errorf("the policy lets in %+v", rule)
		}
	}
	var read any
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte(strings.Replace(deployFile(t, "kubernetes/sallyport.yaml"), "readOnlyRootFilesystem", "readOnlyRootFileSystem", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := testkit.Check(t, &read, "", "kubernetes", bad); err == nil {
		t.Error("a misspelt member is not noticed")
	}
}
