package golden

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// names replaces what differs from run to run.
var names = []struct {
	what *regexp.Regexp
	name string
}{
	{regexp.MustCompile(`https://[a-z0-9.\-]+:\d+`), "<server>"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uid>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "<time>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4}`), "<time>"},
	{regexp.MustCompile(`-[0-9a-f]{8,10}(-[a-z0-9]{5})?"`), "-<hash>\""},
	{regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}`), "<time>"},
	{regexp.MustCompile(`eyJ[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+`), "<token>"},
	{regexp.MustCompile(`(resourceVersion"?: )"\d+"`), `$1"<revision>"`},
	{regexp.MustCompile(`(Resource Version: +)\d+`), "$1<revision>"},
	{regexp.MustCompile(`/tmp/[A-Za-z0-9/_.\-]+`), "<file>"},
	{regexp.MustCompile(`\b10\.(43|0|97)\.\d+\.\d+\b`), "<ip>"},
	{regexp.MustCompile(`\b3[0-2]\d{3}\b`), "<port>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} UTC`), "<time>"},
	{regexp.MustCompile(`X509SHA256=[0-9a-f]{64}`), "X509SHA256=<hash>"},
	{regexp.MustCompile(`(Created pod: [a-z]+)-[a-z0-9]{5}\b`), "$1-<random>"},
	{regexp.MustCompile(`\b(web|db|ssa|d)-[0-9a-f]{8,10}\b`), "$1-<hash>"},
	{regexp.MustCompile(` \(x\d+ over \d+[smh]+\)`), ""},
	{age, "$1<age>"},
	{regexp.MustCompile(`kube-api-access-[a-z0-9]{5}`), "kube-api-access-<random>"},
	{regexp.MustCompile(`-----BEGIN CERTIFICATE-----(.|\n)*?-----END CERTIFICATE-----`), "<certificate>"},
	{regexp.MustCompile(`"?LS0tLS1CRUdJTiBDRVJU[A-Za-z0-9+/=]+"?`), "<certificate>"},
	// What kubectl logs is not what it shows.
	{regexp.MustCompile(`(?m)^! [IWEF]\d{4} .*\n?`), ""},
	// Columns are as wide as what is in them.
	{regexp.MustCompile(`(\S) {2,}`), "$1   "},
	{regexp.MustCompile(`(?m) +$`), ""},
}

var age = regexp.MustCompile(`(?m)([^:\s] {2,}|over |-age=)(<invalid>|\d+s|\d+m(\d+s)?)\b`)

// normal is the text as a transcript has it.
func normal(text string) string {
	for _, n := range names {
		text = n.what.ReplaceAllString(text, n.name)
	}
	text = age.ReplaceAllString(text, "$1<age>") // where two ages are neighbours
	return byManager(text)
}

// byManager orders the managed fields of a JSON object by who manages them: the
// server orders them by the second in which they were written.
func byManager(text string) string {
	if !strings.HasPrefix(text, "{") || !strings.Contains(text, `"managedFields": [`) {
		return text
	}
	var obj map[string]any
	in := json.NewDecoder(strings.NewReader(text))
	if err := in.Decode(&obj); err != nil {
		return text // not JSON, whatever it looks like
	}
	meta, _ := obj["metadata"].(map[string]any)
	entries, _ := meta["managedFields"].([]any)
	key := func(e any) string {
		m, _ := e.(map[string]any)
		return fmt.Sprint(m["manager"], m["operation"], m["subresource"], m["fieldsV1"])
	}
	slices.SortFunc(entries, func(a, b any) int { return strings.Compare(key(a), key(b)) })
	var b strings.Builder
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	out.SetIndent("", "    ")
	if err := out.Encode(obj); err != nil {
		return text
	}
	return strings.TrimSuffix(b.String(), "\n") + text[in.InputOffset():]
}

// split takes a command apart as a shell does, with quotes and nothing else.
func split(command string) (args []string, err error) {
	var word strings.Builder
	quote, inWord := rune(0), false
	for _, r := range command {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ':
			if inWord {
				args = append(args, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		args = append(args, word.String())
	}
	return args, nil
}
