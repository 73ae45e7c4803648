package api

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func flowcontrolRows() []*Resource {
	return []*Resource{flowSchemaRow(), priorityLevelRow()}
}

func flowSchemaRow() *Resource {
	spec := flowcontrolv1.FlowSchemaSpec{}.SwaggerDoc()
	return kind[*flowcontrolv1.FlowSchema]{
		GroupVersion: flowcontrolv1.SchemeGroupVersion, Plural: "flowschemas",
		List:   &flowcontrolv1.FlowSchemaList{},
		Status: true, Generation: true,
		PrepareStatus: func(s, old *flowcontrolv1.FlowSchema) { metav1.ResetObjectMetaForStatus(s, old) },
		ValidateStatus: func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
			return each(s.Status.Conditions, statusPath.Child("conditions"), func(c *flowcontrolv1.FlowSchemaCondition, at *field.Path) field.ErrorList {
				return required(c.Type, at.Child("type"))
			})
		},
		Default:  func(s *flowcontrolv1.FlowSchema) { empty(&s.Spec.MatchingPrecedence, 1000) },
		Validate: validateFlowSchema,
		Columns: columns(nameColumn,
			column("PriorityLevel", "string", flowcontrolv1.PriorityLevelConfigurationReference{}.SwaggerDoc()["name"]),
			column("MatchingPrecedence", "string", spec["matchingPrecedence"]),
			column("DistinguisherMethod", "string", spec["distinguisherMethod"]),
			ageColumn,
			column("MissingPL", "string", "references a broken or non-existent PriorityLevelConfiguration")),
		Cells: func(s *flowcontrolv1.FlowSchema, now time.Time) []any {
			method, missing := none, "?"
			if d := s.Spec.DistinguisherMethod; d != nil {
				method = string(d.Type)
			}
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					missing = string(c.Status)
				}
			}
			return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, age(s, now), missing}
		},
	}.row()
}

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	var errs field.ErrorList
	switch p := s.Spec.MatchingPrecedence; {
	case p <= 0:
		errs = append(errs, field.Invalid(specPath.Child("matchingPrecedence"), p, "must be a positive value"))
	case p > 10000:
		errs = append(errs, field.Invalid(specPath.Child("matchingPrecedence"), p, "must not be greater than 10000"))
	case p == 1 && s.Name != "exempt":
		errs = append(errs, field.Invalid(specPath.Child("matchingPrecedence"), p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if d := s.Spec.DistinguisherMethod; d != nil {
		errs = append(errs, oneOf(d.Type, specPath.Child("distinguisherMethod", "type"),
			flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
	}
	if name := s.Spec.PriorityLevelConfiguration.Name; name == "" {
		errs = append(errs, field.Required(specPath.Child("priorityLevelConfiguration", "name"), "must reference a priority level"))
	} else {
		errs = append(errs, invalidEach(name, specPath.Child("priorityLevelConfiguration", "name"), subdomain(name, false))...)
	}
	return append(errs, each(s.Spec.Rules, specPath.Child("rules"), validateFlowRule)...)
}

func validateFlowRule(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	errs = append(errs, each(r.Subjects, at.Child("subjects"), validateFlowSubject)...)
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	errs = append(errs, each(r.ResourceRules, at.Child("resourceRules"), func(r *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
		errs := requiredList(r.Verbs, at.Child("verbs"), "verbs must contain at least one value")
		errs = append(errs, requiredList(r.APIGroups, at.Child("apiGroups"), "resource rules must supply at least one api group")...)
		errs = append(errs, requiredList(r.Resources, at.Child("resources"), "resource rules must supply at least one resource")...)
		if len(r.Namespaces) == 0 && !r.ClusterScope {
			errs = append(errs, field.Required(at.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace"))
		}
		for i, ns := range r.Namespaces {
			if ns != "*" {
				errs = append(errs, invalidEach(ns, at.Child("namespaces").Index(i), dnsLabel(ns, false))...)
			}
		}
		errs = append(errs, flowVerbs(r.Verbs, at.Child("verbs"))...)
		errs = append(errs, aloneIfAll(r.APIGroups, at.Child("apiGroups"), "if '*' is present, must not specify other api groups")...)
		errs = append(errs, aloneIfAll(r.Resources, at.Child("resources"), "if '*' is present, must not specify other resources")...)
		return append(errs, aloneIfAll(r.Namespaces, at.Child("namespaces"), "if '*' is present, must not specify other namespaces")...)
	})...)
	return append(errs, each(r.NonResourceRules, at.Child("nonResourceRules"), func(r *flowcontrolv1.NonResourcePolicyRule, at *field.Path) field.ErrorList {
		errs := requiredList(r.Verbs, at.Child("verbs"), "verbs must contain at least one value")
		errs = append(errs, flowVerbs(r.Verbs, at.Child("verbs"))...)
		errs = append(errs, requiredList(r.NonResourceURLs, at.Child("nonResourceURLs"), "nonResourceURLs must contain at least one value")...)
		return append(errs, flowURLs(r.NonResourceURLs, at.Child("nonResourceURLs"))...)
	})...)
}

var knownVerbs = []string{"get", "list", "create", "update", "patch", "delete", "deletecollection", "watch", "proxy", "put", "post", "head", "options"}

func flowVerbs(verbs []string, at *field.Path) field.ErrorList {
	if slices.Contains(verbs, "*") {
		return aloneIfAll(verbs, at, "if '*' is present, must not specify other verbs")
	}
	for _, v := range verbs {
		if !slices.Contains(knownVerbs, v) {
			return field.ErrorList{field.NotSupported(at, verbs, slices.Sorted(slices.Values(knownVerbs)))}
		}
	}
	return nil
}

func aloneIfAll(list []string, at *field.Path, message string) field.ErrorList {
	if slices.Contains(list, "*") && len(list) > 1 {
		return field.ErrorList{field.Invalid(at, list, message)}
	}
	return nil
}

// flowURLs: paths begin with a slash, have no empty segment, and may end in "/*".
func flowURLs(urls []string, at *field.Path) field.ErrorList {
	errs := aloneIfAll(urls, at, "if '*' is present, must not specify other non-resource URLs")
	if len(errs) > 0 {
		return errs
	}
	for i, u := range urls {
		if u == "*" {
			continue
		}
		bad := func(why string) { errs = append(errs, field.Invalid(at.Index(i), u, why)) }
		if len(u) == 0 {
			bad("nonResourceURL must not be empty")
			continue
		}
		if !strings.HasPrefix(u, "/") {
			bad("nonResourceURL must start with '/'")
		}
		if strings.Contains(u, " ") {
			bad("nonResourceURL must not contain white-space")
		}
		if strings.Contains(u, "//") {
			bad("nonResourceURL must not contain double slash")
		}
		if at := strings.Index(u, "*"); at >= 0 && !(at == len(u)-1 && strings.HasSuffix(u, "/*")) {
			bad("wildcard can only do suffix matching")
		}
	}
	return errs
}

func requiredList(list []string, at *field.Path, message string) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, message)}
	}
	return nil
}

func validateFlowSubject(s *flowcontrolv1.Subject, at *field.Path) field.ErrorList {
	errs := validateFlowName(s, at)
	for _, other := range []struct {
		kind  flowcontrolv1.SubjectKind
		field string
		set   bool
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil},
	} {
		known := s.Kind == flowcontrolv1.SubjectKindServiceAccount || s.Kind == flowcontrolv1.SubjectKindUser || s.Kind == flowcontrolv1.SubjectKindGroup
		if known && other.set && other.kind != s.Kind {
			errs = append(errs, field.Forbidden(at.Child(other.field), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", other.field, other.kind)))
		}
	}
	return errs
}

func validateFlowName(s *flowcontrolv1.Subject, at *field.Path) field.ErrorList {
	switch s.Kind {
	case flowcontrolv1.SubjectKindServiceAccount:
		if s.ServiceAccount == nil {
			return field.ErrorList{field.Required(at.Child("serviceAccount"), "serviceAccount is required when subject kind is 'ServiceAccount'")}
		}
		return append(required(s.ServiceAccount.Name, at.Child("serviceAccount", "name")),
			required(s.ServiceAccount.Namespace, at.Child("serviceAccount", "namespace"))...)
	case flowcontrolv1.SubjectKindUser:
		if s.User == nil {
			return field.ErrorList{field.Required(at.Child("user"), "user is required when subject kind is 'User'")}
		}
		return required(s.User.Name, at.Child("user", "name"))
	case flowcontrolv1.SubjectKindGroup:
		if s.Group == nil {
			return field.ErrorList{field.Required(at.Child("group"), "group is required when subject kind is 'Group'")}
		}
		return required(s.Group.Name, at.Child("group", "name"))
	}
	return oneOf(s.Kind, at.Child("kind"), flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
}

func priorityLevelRow() *Resource {
	spec, limited := flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc(), flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()
	queuing := flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()
	return kind[*flowcontrolv1.PriorityLevelConfiguration]{
		GroupVersion: flowcontrolv1.SchemeGroupVersion, Plural: "prioritylevelconfigurations",
		List:   &flowcontrolv1.PriorityLevelConfigurationList{},
		Status: true, Generation: true,
		PrepareStatus: func(p, old *flowcontrolv1.PriorityLevelConfiguration) { metav1.ResetObjectMetaForStatus(p, old) },
		ValidateStatus: func(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			return each(p.Status.Conditions, statusPath.Child("conditions"), func(c *flowcontrolv1.PriorityLevelConfigurationCondition, at *field.Path) field.ErrorList {
				return required(c.Type, at.Child("type"))
			})
		},
		Default:  defaultPriorityLevel,
		Validate: validatePriorityLevel,
		Columns: columns(nameColumn,
			column("Type", "string", spec["type"]),
			column("NominalConcurrencyShares", "string", limited["nominalConcurrencyShares"]),
			column("Queues", "string", queuing["queues"]),
			column("HandSize", "string", queuing["handSize"]),
			column("QueueLengthLimit", "string", queuing["queueLengthLimit"]),
			ageColumn),
		Cells: func(p *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
			shares, queues, hand, length := any(none), any(none), any(none), any(none)
			if l := p.Spec.Limited; l != nil {
				shares = deref(l.NominalConcurrencyShares, 0)
				if q := l.LimitResponse.Queuing; q != nil {
					queues, hand, length = q.Queues, q.HandSize, q.QueueLengthLimit
				}
			}
			return []any{p.Name, string(p.Spec.Type), shares, queues, hand, length, age(p, now)}
		},
	}.row()
}

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	if l := p.Spec.Limited; l != nil {
		unset(&l.NominalConcurrencyShares, 30)
		unset(&l.LendablePercent, 0)
		if q := l.LimitResponse.Queuing; q != nil {
			empty(&q.HandSize, 8)
			empty(&q.Queues, 64)
			empty(&q.QueueLengthLimit, 50)
		}
	}
	if e := p.Spec.Exempt; e != nil {
		unset(&e.NominalConcurrencyShares, 0)
		unset(&e.LendablePercent, 0)
	}
}

func validatePriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	s := &p.Spec
	if s.Limited != nil && s.Type != flowcontrolv1.PriorityLevelEnablementLimited && s.Type != flowcontrolv1.PriorityLevelEnablementExempt {
		return append(requiredOneOf(s.Type, specPath.Child("type"), flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited),
			field.Forbidden(specPath.Child("limited"), "must be nil if the type is not Limited"))
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			return field.ErrorList{field.Forbidden(specPath.Child("limited"), "must be nil if the type is not Limited")}
		}
		return nil
	case flowcontrolv1.PriorityLevelEnablementLimited:
	default:
		return requiredOneOf(s.Type, specPath.Child("type"), flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
	}
	if s.Limited == nil {
		return field.ErrorList{field.Required(specPath.Child("limited"), "must not be empty when type is Limited")}
	}
	var errs field.ErrorList
	if s.Exempt != nil {
		errs = append(errs, field.Forbidden(specPath.Child("exempt"), "must be nil if the type is Limited"))
	}
	at := specPath.Child("limited")
	errs = append(errs, nonNegativePtr(s.Limited.NominalConcurrencyShares, at.Child("nominalConcurrencyShares"))...)
	if l := s.Limited.LendablePercent; l != nil && (*l < 0 || *l > 100) {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), *l, "must be between 0 and 100, inclusive"))
	}
	if b := s.Limited.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	return append(errs, validateLimitResponse(&s.Limited.LimitResponse, at.Child("limitResponse"))...)
}

func validateLimitResponse(r *flowcontrolv1.LimitResponse, at *field.Path) field.ErrorList {
	switch r.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if r.Queuing != nil {
			return field.ErrorList{field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited")}
		}
		return nil
	case flowcontrolv1.LimitResponseTypeQueue:
	default:
		errs := requiredOneOf(r.Type, at.Child("type"), flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject)
		if r.Queuing != nil {
			errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
		return errs
	}
	q := r.Queuing
	if q == nil {
		return field.ErrorList{field.Required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited")}
	}
	at = at.Child("queuing")
	var errs field.ErrorList
	for _, n := range []struct {
		field string
		value int32
	}{{"queueLengthLimit", q.QueueLengthLimit}, {"queues", q.Queues}, {"handSize", q.HandSize}} {
		if n.value <= 0 {
			errs = append(errs, field.Invalid(at.Child(n.field), n.value, "must be positive"))
		}
	}
	if q.Queues > 10_000_000 {
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, "must not be greater than 10000000"))
	}
	if bits := entropyBits(q.Queues, q.HandSize); q.HandSize > q.Queues {
		errs = append(errs, field.Invalid(at.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	} else if bits > maxHashBits {
		errs = append(errs, field.Invalid(at.Child("handSize"), q.HandSize,
			fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxHashBits)))
	}
	return errs
}

const maxHashBits = 60 // what is left of a flow's hash to deal queues by

// entropyBits is how much of a hash dealing a hand of a deck takes.
func entropyBits(deck, hand int32) int {
	return int(math.Ceil(math.Log2(float64(deck)) * float64(hand)))
}
