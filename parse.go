package sallyport

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxRuleText is how long a rule may be that ParseRule reads, in bytes.
const MaxRuleText = 1024

// ParseRule reads a rule as Rule.String prints it and “sallyport routes” lists it:
//
//	public  signed-in  mfa  unscoped
//	role(NAME)  permission(NAME)  scope(NAME)
//	policy(ACTION, TYPE::ID)
//	fresh(10m)               a duration as time.ParseDuration reads it
//	via(bearer, api_key)     kinds of credential
//	all(RULE, RULE)  any(RULE, RULE)
//
// Spaces may stand around parts and commas, or be left out; nothing else is
// forgiven. The rule has passed Check. The error says at which byte, counted from
// 1, the text is no rule, and what would be right there; with one, the Rule is the
// zero Rule, which lets nobody in.
func ParseRule(text string) (Rule, error) {
	if len(text) > MaxRuleText {
		return Rule{}, fmt.Errorf("the rule is longer than %d bytes: name a role that stands for it", MaxRuleText)
	}
	p := ruleParser{text: text}
	r, err := p.rule(0)
	if err != nil {
		return Rule{}, err
	}
	if p.spaces(); p.at < len(text) {
		return Rule{}, p.wrong("the rule is complete before this: remove what follows, or write all(…) or any(…) around several rules")
	}
	if err := r.Check(); err != nil {
		return Rule{}, err
	}
	return r, nil
}

// ruleParser goes through the text once.
type ruleParser struct {
	text string
	at   int
}

func (p *ruleParser) wrong(what string) error {
	return fmt.Errorf("at byte %d of the rule: %s", p.at+1, what)
}

func (p *ruleParser) spaces() {
	for p.at < len(p.text) && p.text[p.at] == ' ' {
		p.at++
	}
}

// until takes text up to one of the stops, without spaces around it.
func (p *ruleParser) until(stops string) string {
	p.spaces()
	from := p.at
	for p.at < len(p.text) && !strings.ContainsRune(stops, rune(p.text[p.at])) {
		p.at++
	}
	return strings.TrimRight(p.text[from:p.at], " ")
}

// take reports whether the next byte is c, and goes past it.
func (p *ruleParser) take(c byte) bool {
	p.spaces()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

const ruleWords = "write public, signed-in, mfa, unscoped, role(…), permission(…), scope(…), policy(…), fresh(…), via(…), all(…) or any(…)"

func (p *ruleParser) rule(depth int) (Rule, error) {
	if depth > MaxRuleDepth {
		return Rule{}, p.wrong(fmt.Sprintf("rules are nested deeper than %d", MaxRuleDepth))
	}
	p.spaces()
	from := p.at
	word := p.until("(), ")
	if !p.take('(') {
		for _, r := range []Rule{Public(), SignedIn(), MFA(), Unscoped()} {
			if r.String() == word {
				return r, nil
			}
		}
		p.at = from
		return Rule{}, p.wrong(ruleWords)
	}
	switch word {
	case "role", "permission", "scope":
		op := map[string]Op{"role": OpRole, "permission": OpPermission, "scope": OpScope}[word]
		list, err := p.list(word, CheckName)
		if err == nil && len(list) != 1 {
			p.at = from
			err = p.wrong(word + "(…) takes one name: write any(…) or all(…) around several")
		}
		if err != nil {
			return Rule{}, err
		}
		return Rule{op: op, name: list[0]}, nil
	case "policy":
		list, err := p.list(word, func(string) error { return nil })
		if err != nil {
			return Rule{}, err
		}
		p.at, from = from, p.at
		if len(list) != 2 {
			return Rule{}, p.wrong("policy(…) takes an action and a resource, such as policy(approve:orders, Order::daily)")
		}
		r := Policy(list[0], list[1])
		if err := r.Check(); err != nil {
			return Rule{}, p.wrong(err.Error())
		}
		p.at = from
		return r, nil
	case "fresh":
		list, err := p.list(word, func(s string) error {
			if d, err := time.ParseDuration(s); err != nil || d < time.Second || d > maxAge {
				return fmt.Errorf("write a duration of at least 1s and at most a hundred years, such as 90s, 10m or 12h")
			}
			return nil
		})
		if err == nil && len(list) != 1 {
			p.at = from
			err = p.wrong("fresh(…) takes one duration")
		}
		if err != nil {
			return Rule{}, err
		}
		d, err := time.ParseDuration(list[0])
		return Fresh(d), err
	case "via":
		list, err := p.list(word, func(s string) error {
			if !slices.Contains(Kinds(), Kind(s)) {
				return fmt.Errorf("this is no kind of credential: write %s", kindNames(Kinds()))
			}
			return nil
		})
		r := Rule{op: OpVia}
		for _, k := range list {
			r.kinds = append(r.kinds, Kind(k))
		}
		return r, err
	case "all", "any":
		r := Rule{op: OpAll}
		if word == "any" {
			r.op = OpAny
		}
		for {
			part, err := p.rule(depth + 1)
			if err != nil {
				return Rule{}, err
			}
			r.of = append(r.of, part)
			if p.take(',') {
				continue
			}
			if !p.take(')') {
				return Rule{}, p.wrong("write a comma and another rule, or ) to end " + word + "(…)")
			}
			return r, nil
		}
	}
	p.at = from
	return Rule{}, p.wrong(ruleWords)
}

// list reads what stands in parentheses, up to and with the closing one.
func (p *ruleParser) list(word string, check func(string) error) (out []string, err error) {
	for {
		p.spaces()
		from := p.at
		item := p.until("(),")
		end := p.at
		if p.at = from; item == "" {
			return nil, p.wrong("something is missing in " + word + "(…)")
		}
		if err := check(item); err != nil {
			return nil, p.wrong(err.Error())
		}
		p.at = end
		out = append(out, item)
		if p.take(',') {
			continue
		}
		if !p.take(')') {
			return nil, p.wrong("write ) to end " + word + "(…)")
		}
		return out, nil
	}
}
