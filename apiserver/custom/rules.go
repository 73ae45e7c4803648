package custom

import (
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// rules are what a version's schema says, in the forms that the published
// packages work with.
type rules struct {
	// structural is nil where the version has no schema, or one that older
	// servers let pass.
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
	// status judges what is below "status"; nil where the schema says nothing
	// of it.
	status validation.SchemaValidator
	// programs are the compiled CEL rules, nil where there are none.
	programs func() *cel.Validator
}

// readRules compiles a version's schema, CEL rules aside.
func readRules(v *apiextensionsv1.CustomResourceDefinitionVersion, keepsUnknown bool) (*rules, error) {
	var props *apiextensions.JSONSchemaProps
	if v.Schema != nil {
		in := &apiextensions.CustomResourceValidation{}
		if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Schema, in, nil); err != nil {
			return nil, fmt.Errorf("read the schema of version %s: %w", v.Name, err)
		}
		props = in.OpenAPIV3Schema
	}
	r := &rules{}
	if err := r.readStructural(props, keepsUnknown); err != nil {
		return nil, fmt.Errorf("read the schema of version %s: %w", v.Name, err)
	}
	var err error
	if r.validator, _, err = validation.NewSchemaValidator(props); err != nil {
		return nil, fmt.Errorf("read the schema of version %s: %w", v.Name, err)
	}
	if status, ok := statusOf(props); ok {
		if r.status, _, err = validation.NewSchemaValidator(&status); err != nil {
			return nil, fmt.Errorf("read the schema of version %s: %w", v.Name, err)
		}
	}
	r.programs = sync.OnceValue(func() *cel.Validator {
		return cel.NewValidator(r.structural, true, celconfig.PerCallLimit)
	})
	return r, nil
}

func statusOf(props *apiextensions.JSONSchemaProps) (apiextensions.JSONSchemaProps, bool) {
	if props == nil {
		return apiextensions.JSONSchemaProps{}, false
	}
	status, ok := props.Properties["status"]
	return status, ok
}

func (r *rules) readStructural(props *apiextensions.JSONSchemaProps, keepsUnknown bool) error {
	if props == nil {
		return nil
	}
	s, err := structuralschema.NewStructural(props)
	if keepsUnknown {
		r.structural = s // nil on error: such definitions came with old servers
		return nil
	}
	if err != nil {
		return err
	}
	s = s.DeepCopy() // defaults are shared with the definition
	if err := defaulting.PruneDefaults(s); err != nil {
		return err
	}
	r.structural = s
	return nil
}
