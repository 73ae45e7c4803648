package encryption

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

const apiVersion = "apiserver.config.k8s.io/v1"

// rule is one entry of the configuration: for these resources the first key
// seals, any key opens.
type rule struct {
	resources []string // "secrets", "deployments.apps", "*.apps", "*.", "*.*"
	keys      []*key   // never empty
}

// covers tells whether the rule is for a resource, by its name in store keys.
func (r rule) covers(resource string) bool {
	group, plural, found := strings.Cut(resource, "/")
	if !found {
		group, plural = "", resource
	}
	name := plural
	if group != "" {
		name += "." + group
	}
	return slices.Contains(r.resources, name) || slices.Contains(r.resources, "*."+group) || slices.Contains(r.resources, "*.*")
}

// Load reads a configuration from a file. Errors name the file and the field.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the encryption configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("the encryption configuration %s: %w", path, err)
	}
	c.path = path
	return c, nil
}

// Config is a checked configuration.
type Config struct {
	rules []rule
	spare []rule   // only to open
	path  string   // where it was read, for errors
	found sync.Map // resource to its *rule
}

// rule finds what is configured for a resource: the first rule that covers it,
// or nil.
func (c *Config) rule(resource string) *rule {
	if r, ok := c.found.Load(resource); ok {
		return r.(*rule)
	}
	var first *rule
	for i := range c.rules {
		if c.rules[i].covers(resource) {
			first = &c.rules[i]
			break
		}
	}
	c.found.Store(resource, first)
	return first
}

// Add has the other configuration's keys open what this one's do not.
func (c *Config) Add(other *Config) { c.spare = append(c.spare, other.rules...) }

// Parse reads a configuration.
func Parse(data []byte) (*Config, error) {
	var doc apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(data, &doc); err != nil {
		return nil, err
	}
	if doc.Kind != "EncryptionConfiguration" || doc.APIVersion != apiVersion {
		return nil, fmt.Errorf("it is a %q of %q, not an EncryptionConfiguration of %s", doc.Kind, doc.APIVersion, apiVersion)
	}
	at := field.NewPath("resources")
	if len(doc.Resources) == 0 {
		return nil, field.Required(at, "at least one entry is needed")
	}
	c := &Config{}
	var errs field.ErrorList
	for i, entry := range doc.Resources {
		r, bad := parseRule(entry, at.Index(i))
		errs = append(errs, bad...)
		for j, name := range entry.Resources {
			if earlier := c.claims(name); earlier {
				errs = append(errs, field.Duplicate(at.Index(i).Child("resources").Index(j), name))
			}
		}
		c.rules = append(c.rules, r)
	}
	return c, errs.ToAggregate()
}

func (c *Config) claims(name string) bool {
	return slices.ContainsFunc(c.rules, func(r rule) bool { return slices.Contains(r.resources, name) })
}

func parseRule(entry apiserverv1.ResourceConfiguration, at *field.Path) (r rule, errs field.ErrorList) {
	if len(entry.Resources) == 0 {
		errs = append(errs, field.Required(at.Child("resources"), "at least one resource is needed"))
	}
	for i, name := range entry.Resources {
		if problem := badResource(name); problem != "" {
			errs = append(errs, field.Invalid(at.Child("resources").Index(i), name, problem))
		}
	}
	r.resources = entry.Resources
	if len(entry.Providers) == 0 {
		errs = append(errs, field.Required(at.Child("providers"), "at least one provider is needed"))
	}
	seen := map[string]bool{}
	for i, p := range entry.Providers {
		keys, bad := parseProvider(p, at.Child("providers").Index(i))
		errs = append(errs, bad...)
		for _, k := range keys {
			if seen[k.prefix] {
				errs = append(errs, field.Duplicate(at.Child("providers").Index(i), k.name))
			}
			seen[k.prefix] = true
		}
		r.keys = append(r.keys, keys...)
	}
	return r, errs
}

func badResource(name string) string {
	switch {
	case name == "" || name == "*":
		return `it must be a resource like "secrets" or "deployments.apps", "*.GROUP", "*." or "*.*"`
	case strings.Contains(name, "/"):
		return "a subresource is not stored"
	case strings.ToLower(name) != name:
		return "resources are written in lower case"
	case slices.Contains([]string{"secrets.v1", "configmaps.v1"}, name):
		return "a resource is named without its version"
	}
	return ""
}

func parseProvider(p apiserverv1.ProviderConfiguration, at *field.Path) ([]*key, field.ErrorList) {
	set := 0
	for _, is := range []bool{p.AESGCM != nil, p.AESCBC != nil, p.Secretbox != nil, p.Identity != nil, p.KMS != nil} {
		if is {
			set++
		}
	}
	switch {
	case set == 0:
		return nil, field.ErrorList{field.Required(at, "one of aescbc, aesgcm, identity, kms and secretbox is needed")}
	case set > 1:
		return nil, field.ErrorList{field.Forbidden(at, "more than one provider: each is an entry of its own")}
	case p.AESGCM != nil:
		return parseKeys(p.AESGCM.Keys, "aesgcm", at.Child("aesgcm"), newGCM, 16, 24, 32)
	case p.AESCBC != nil:
		return parseKeys(p.AESCBC.Keys, "aescbc", at.Child("aescbc"), newCBC, 32)
	case p.Secretbox != nil:
		return parseKeys(p.Secretbox.Keys, "secretbox", at.Child("secretbox"), newSecretbox, 32)
	case p.KMS != nil:
		return parseKMS(p.KMS, at.Child("kms"))
	}
	return []*key{{name: "identity"}}, nil
}

func parseKeys(keys []apiserverv1.Key, provider string, at *field.Path, make func([]byte) (box, error), sizes ...int) (out []*key, errs field.ErrorList) {
	if len(keys) == 0 {
		return nil, field.ErrorList{field.Required(at.Child("keys"), "at least one key is needed")}
	}
	for i, k := range keys {
		at := at.Child("keys").Index(i)
		if k.Name == "" || strings.Contains(k.Name, ":") {
			errs = append(errs, field.Invalid(at.Child("name"), k.Name, "a name without colons is needed"))
		}
		secret, err := secretOf(k.Secret, sizes)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("secret"), "(not shown)", err.Error()))
			continue
		}
		b, err := make(secret)
		if err != nil {
			errs = append(errs, field.InternalError(at, err))
			continue
		}
		out = append(out, &key{name: k.Name, provider: provider, prefix: mark + provider + ":v1:" + k.Name + ":", box: b, id: sealOf(provider, k.Name, secret)})
	}
	return out, errs
}

func secretOf(encoded string, sizes []int) ([]byte, error) {
	if encoded == "" {
		return nil, errors.New("it is empty")
	}
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("it must be base64")
	}
	if !slices.Contains(sizes, len(secret)) {
		return nil, fmt.Errorf("it has %d bytes, but must have one of %v", len(secret), sizes)
	}
	return secret, nil
}
