package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	crdschema "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

func apiextensionsRows() []*Resource {
	return []*Resource{customResourceDefinitionRow()}
}

func customResourceDefinitionRow() *Resource {
	row := kind[*apiextensionsv1.CustomResourceDefinition]{
		GroupVersion: apiextensionsv1.SchemeGroupVersion, Plural: "customresourcedefinitions", Short: []string{"crd", "crds"}, Categories: extensionCategory,
		List:   &apiextensionsv1.CustomResourceDefinitionList{},
		Status: true, Generation: true,
		Default: apiextensionsv1.SetObjectDefaults_CustomResourceDefinition,
		PrepareCreate: func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Status.StoredVersions = withStorageVersion(nil, c)
		},
		PrepareUpdate: func(c, old *apiextensionsv1.CustomResourceDefinition) {
			c.Status.StoredVersions = withStorageVersion(old.Status.StoredVersions, c)
		},
		Deleting: closeDefinition,
		Warnings: definitionWarnings,
		Columns: columns(nameColumn,
			column("Scope", "string", "Cluster/Namespaced"),
			column("Versions", "string", "Served versions"),
			createdAtColumn,
			wideColumn("Group", "string", "API group"),
			wideColumn("Kind", "string", "CustomResource kind"),
			wideColumn("ShortNames", "string", "Short names"),
			wideColumn("Established", "boolean", "Established status")),
		Cells: definitionCells,
	}.row()
	// The published validation judges metadata, and updates as a whole.
	row.Validate = func(obj Object) field.ErrorList {
		return withInternal(obj.(*apiextensionsv1.CustomResourceDefinition), func(c *apiextensions.CustomResourceDefinition) field.ErrorList {
			return crdvalidation.ValidateCustomResourceDefinition(context.Background(), c)
		})
	}
	row.Ratchets, row.Conditional = true, true
	row.ValidateUpdate = func(obj, old Object) field.ErrorList {
		return withInternals(obj.(*apiextensionsv1.CustomResourceDefinition), old.(*apiextensionsv1.CustomResourceDefinition), crdvalidation.ValidateCustomResourceDefinitionUpdate)
	}
	row.Subresource("status").ValidateUpdate = func(obj, old Object) field.ErrorList {
		return withInternals(obj.(*apiextensionsv1.CustomResourceDefinition), old.(*apiextensionsv1.CustomResourceDefinition), crdvalidation.ValidateUpdateCustomResourceDefinitionStatus)
	}
	return row
}

func definitionCells(c *apiextensionsv1.CustomResourceDefinition, _ time.Time) []any {
	var versions []string
	for _, v := range c.Spec.Versions {
		switch {
		case v.Served && v.Storage:
			versions = append(versions, v.Name+"(storage)")
		case v.Served:
			versions = append(versions, v.Name)
		}
	}
	slices.Sort(versions)
	established := slices.ContainsFunc(c.Status.Conditions, func(d apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return d.Type == apiextensionsv1.Established && d.Status == apiextensionsv1.ConditionTrue
	})
	return []any{c.Name, string(c.Spec.Scope), strings.Join(versions, ","), c.CreationTimestamp.UTC().Format(time.RFC3339),
		c.Spec.Group, c.Spec.Names.Kind, strings.Join(c.Spec.Names.ShortNames, ","), established}
}

// closeDefinition holds a definition that is deleted until its instances are
// gone.
func closeDefinition(c *apiextensionsv1.CustomResourceDefinition) {
	if !slices.Contains(c.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		c.Finalizers = append(c.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	pending := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	}
	if at := c.DeletionTimestamp; at != nil {
		pending.LastTransitionTime = *at
	}
	c.Status.Conditions = append(slices.DeleteFunc(c.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Terminating
	}), pending)
}

// definitionWarnings tell of formats that nobody checks, and of sets whose items
// cannot be told apart; old is nil on create.
func definitionWarnings(c, old *apiextensionsv1.CustomResourceDefinition) []string {
	known := schemaWarnings(old)
	return slices.DeleteFunc(schemaWarnings(c), func(w string) bool { return slices.Contains(known, w) })
}

func schemaWarnings(c *apiextensionsv1.CustomResourceDefinition) []string {
	if c == nil {
		return nil
	}
	var formats, sets []string
	for _, v := range c.Spec.Versions {
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		in := &apiextensions.JSONSchemaProps{}
		if apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, in, nil) != nil {
			continue // validation says so
		}
		crdvalidation.SchemaHas(in, func(s *apiextensions.JSONSchemaProps) bool {
			formats = append(formats, unknownFormats(s)...)
			if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil && (s.Items.Schema.Type == "object" || s.Items.Schema.Type == "array") {
				sets = append(sets, fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", s.Items.Schema.Type))
			}
			return false
		})
	}
	slices.Sort(sets)
	return append(formats, slices.Compact(sets)...)
}

func unknownFormats(s *apiextensions.JSONSchemaProps) []string {
	if s.Format == "" {
		return nil
	}
	var out []string
	schema := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
	for _, f := range crdschema.GetUnrecognizedFormats(schema, environment.DefaultCompatibilityVersion()) {
		out = append(out, fmt.Sprintf("unrecognized format %q", f))
	}
	return out
}

// withStorageVersion notes that objects are kept in the storage version from
// now on.
func withStorageVersion(stored []string, c *apiextensionsv1.CustomResourceDefinition) []string {
	for _, v := range c.Spec.Versions {
		if v.Storage && !slices.Contains(stored, v.Name) {
			return append(slices.Clone(stored), v.Name)
		}
	}
	return stored
}

// withInternal hands a definition to the published validation, which is
// written for the library's own form of it.
func withInternal(c *apiextensionsv1.CustomResourceDefinition, judge func(*apiextensions.CustomResourceDefinition) field.ErrorList) field.ErrorList {
	in, err := internalDefinition(c)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return judge(in)
}

func withInternals(c, old *apiextensionsv1.CustomResourceDefinition,
	judge func(ctx context.Context, obj, old *apiextensions.CustomResourceDefinition) field.ErrorList) field.ErrorList {
	return withInternal(old, func(was *apiextensions.CustomResourceDefinition) field.ErrorList {
		return withInternal(c, func(now *apiextensions.CustomResourceDefinition) field.ErrorList {
			return judge(context.Background(), now, was)
		})
	})
}

func internalDefinition(c *apiextensionsv1.CustomResourceDefinition) (*apiextensions.CustomResourceDefinition, error) {
	in := &apiextensions.CustomResourceDefinition{}
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(c.DeepCopy(), in, nil); err != nil {
		return nil, fmt.Errorf("read CustomResourceDefinition %s: %w", c.Name, err)
	}
	return in, nil
}

func apiregistrationRows() []*Resource {
	return []*Resource{apiServiceRow()}
}

func apiServiceRow() *Resource {
	return kind[*apiregistrationv1.APIService]{
		GroupVersion: apiregistrationv1.SchemeGroupVersion, Plural: "apiservices", Categories: extensionCategory,
		List:   &apiregistrationv1.APIServiceList{},
		Name:   pathSegment,
		Status: true,
		Default: func(s *apiregistrationv1.APIService) {
			if s.Spec.Service != nil {
				unset(&s.Spec.Service.Port, 443)
			}
		},
		PrepareCreate: func(s *apiregistrationv1.APIService) {
			if s.Spec.Service == nil {
				s.Status.Conditions = []apiregistrationv1.APIServiceCondition{helper.NewLocalAvailableAPIServiceCondition()}
			}
		},
		Validate: validateAPIService,
		Fields: func(s *apiregistrationv1.APIService) fields.Set {
			return fields.Set{"spec.group": s.Spec.Group, "spec.version": s.Spec.Version}
		},
		Columns: columns(nameColumn,
			column("Service", "string", "The reference to the service that hosts this API endpoint."),
			column("Available", "string", "Whether this service is available."),
			ageColumn),
		Cells: func(s *apiregistrationv1.APIService, now time.Time) []any {
			service := "Local"
			if r := s.Spec.Service; r != nil {
				service = r.Namespace + "/" + r.Name
			}
			return []any{s.Name, service, availableCell(s), age(s, now)}
		},
	}.row()
}

func availableCell(s *apiregistrationv1.APIService) string {
	for _, c := range s.Status.Conditions {
		if c.Type != apiregistrationv1.Available {
			continue
		}
		if c.Status != apiregistrationv1.ConditionTrue {
			return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
		return string(c.Status)
	}
	return string(apiregistrationv1.ConditionUnknown)
}

func validateAPIService(s *apiregistrationv1.APIService) field.ErrorList {
	var errs field.ErrorList
	if want := s.Spec.Version + "." + s.Spec.Group; s.Name != want {
		errs = append(errs, field.Invalid(metaPath.Child("name"), s.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
	}
	errs = append(errs, optionally(s.Spec.Group, validation.IsDNS1123Subdomain, specPath.Child("group"))...)
	errs = append(errs, invalidEach(s.Spec.Version, specPath.Child("version"), validation.IsDNS1035Label(s.Spec.Version))...)
	errs = append(errs, validateInRange(s.Spec.GroupPriorityMinimum, 1, 20000, specPath.Child("groupPriorityMinimum"))...)
	errs = append(errs, validateInRange(s.Spec.VersionPriority, 1, 1000, specPath.Child("versionPriority"))...)
	r := s.Spec.Service
	if r == nil {
		if len(s.Spec.CABundle) > 0 {
			errs = append(errs, field.Invalid(specPath.Child("caBundle"), fmt.Sprintf("%d bytes", len(s.Spec.CABundle)), "local APIServices may not have a caBundle"))
		}
		if s.Spec.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(specPath.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	errs = append(errs, required(r.Namespace, specPath.Child("service", "namespace"))...)
	errs = append(errs, required(r.Name, specPath.Child("service", "name"))...)
	if r.Port != nil {
		errs = append(errs, invalidEach(*r.Port, specPath.Child("service", "port"), validation.IsValidPortNum(int(*r.Port)))...)
	}
	if s.Spec.InsecureSkipTLSVerify && len(s.Spec.CABundle) > 0 {
		errs = append(errs, field.Invalid(specPath.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}

func validateInRange(n, min, max int32, at *field.Path) field.ErrorList {
	if n < min || n > max {
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("must be between %d and %d", min, max))}
	}
	return nil
}
