package api

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// coreRows is the group "" v1.
func coreRows() []*Resource {
	return []*Resource{
		podRow(),
		configMapRow(),
		secretRow(),
		serviceAccountRow(),
		namespaceRow(),
		nodeRow(),
		serviceRow(),
		endpointsRow(),
		eventRow(),
		limitRangeRow(),
		resourceQuotaRow(),
		persistentVolumeRow(),
		claimRow(),
		podTemplateRow(),
		replicationControllerRow(),
		componentStatusRow(),
		review[*corev1.Binding](corev1.SchemeGroupVersion, "bindings", true, nil),
	}
}

// componentStatusRow is deprecated since v1.19, and still served.
func componentStatusRow() *Resource {
	return kind[*corev1.ComponentStatus]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "componentstatuses", Short: []string{"cs"}, Deprecated: "v1 ComponentStatus is deprecated in v1.19+",
		List:  &corev1.ComponentStatusList{},
		Verbs: []string{"get", "list"},
		Columns: columns(nameColumn,
			column("Status", "string", "Status of the component conditions"),
			column("Message", "string", "Message of the component conditions"),
			column("Error", "string", "Error of the component conditions")),
		Cells: func(s *corev1.ComponentStatus, _ time.Time) []any {
			for _, c := range s.Conditions {
				if c.Type != corev1.ComponentHealthy {
					continue
				}
				status := "Unhealthy"
				if c.Status == corev1.ConditionTrue {
					status = "Healthy"
				}
				return []any{s.Name, status, c.Message, c.Error}
			}
			return []any{s.Name, "Unknown", "", ""}
		},
	}.row()
}
