package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	psconfig "k8s.io/pod-security-admission/admission/api"
	psload "k8s.io/pod-security-admission/admission/api/load"
	psvalidation "k8s.io/pod-security-admission/admission/api/validation"
	"sigs.k8s.io/yaml"
)

// settings are what a configuration file says for plugins that take any.
type settings struct {
	eventLimits []eventLimit
	tolerations tolerationSettings
	images      *imagePolicy
	// selectors are the node selectors of namespaces, and of all others by the
	// name clusterSelector.
	selectors map[string]string
	security  *psconfig.PodSecurityConfiguration
}

// clusterSelector stands for namespaces that have no selector of their own.
const clusterSelector = "clusterDefaultNodeSelector"

// settingsFile is an AdmissionConfiguration (see
// https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/#apiserver-config-k8s-io-v1-AdmissionConfiguration).
type settingsFile struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Plugins    []struct {
		Name string `json:"name"`
		// Path is relative to the file's directory; Configuration comes first.
		Path          string          `json:"path"`
		Configuration json.RawMessage `json:"configuration"`
	} `json:"plugins"`
}

// readers are the plugins that take a configuration.
var settingsReaders = map[string]func(*settings, []byte) error{
	"EventRateLimit":           (*settings).readEventLimits,
	"PodTolerationRestriction": (*settings).readTolerations,
	"ImagePolicyWebhook":       (*settings).readImagePolicy,
	"PodNodeSelector":          (*settings).readSelectors,
	"PodSecurity":              (*settings).readSecurity,
}

// readSettings reads a file of the kind AdmissionConfiguration. Plugins that it
// names and that take none are an error.
func readSettings(file string) (s settings, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	var conf settingsFile
	if err := yaml.UnmarshalStrict(data, &conf); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	if conf.Kind != "AdmissionConfiguration" || conf.APIVersion != "apiserver.config.k8s.io/v1" {
		return s, fmt.Errorf("%s holds a %s of %s, not an AdmissionConfiguration of apiserver.config.k8s.io/v1", file, conf.Kind, conf.APIVersion)
	}
	for _, p := range conf.Plugins {
		read := settingsReaders[p.Name]
		if read == nil {
			return s, fmt.Errorf("%s: the admission plugin %q takes no configuration here", file, p.Name)
		}
		data := []byte(p.Configuration)
		if len(data) == 0 && p.Path != "" {
			if !filepath.IsAbs(p.Path) {
				p.Path = filepath.Join(filepath.Dir(file), p.Path)
			}
			if data, err = os.ReadFile(p.Path); err != nil {
				return s, err
			}
		}
		if err := read(&s, data); err != nil {
			return s, fmt.Errorf("%s: configuration of the admission plugin %s: %w", file, p.Name, err)
		}
	}
	return s, nil
}

// typed reads a plugin's configuration, which names its own kind.
func typed(data []byte, apiVersion string, into any) error {
	var meta struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(data, &meta); err != nil {
		return err
	}
	if meta.APIVersion != apiVersion || meta.Kind != "Configuration" {
		return fmt.Errorf("it is a %s of %s, not a Configuration of %s", meta.Kind, meta.APIVersion, apiVersion)
	}
	return yaml.UnmarshalStrict(data, into)
}

func (s *settings) readTolerations(data []byte) error {
	var conf struct {
		APIVersion string              `json:"apiVersion"`
		Kind       string              `json:"kind"`
		Default    []corev1.Toleration `json:"default"`
		Whitelist  []corev1.Toleration `json:"whitelist"`
	}
	err := typed(data, "podtolerationrestriction.admission.k8s.io/v1alpha1", &conf)
	s.tolerations = tolerationSettings{conf.Default, conf.Whitelist}
	return err
}

func (s *settings) readSelectors(data []byte) error {
	var conf struct {
		Selectors map[string]string `json:"podNodeSelectorPluginConfig"`
	}
	err := yaml.UnmarshalStrict(data, &conf)
	s.selectors = conf.Selectors
	return err
}

func (s *settings) readSecurity(data []byte) error {
	if len(data) == 0 {
		return errors.New("it is empty")
	}
	conf, err := psload.LoadFromData(data)
	if err != nil {
		return err
	}
	s.security = conf
	return psvalidation.ValidatePodSecurityConfiguration(conf).ToAggregate()
}
