package api

import "slices"

// groups makes the rows of the built-in API groups, one function a group.
var groups = []func() []*Resource{
	coreRows,
	admissionRows,
	apiextensionsRows,
	apiregistrationRows,
	appsRows,
	authenticationRows,
	authorizationRows,
	autoscalingRows,
	batchRows,
	certificatesRows,
	coordinationRows,
	discoveryRows,
	flowcontrolRows,
	networkingRows,
	nodeRows,
	policyRows,
	rbacRows,
	resourceRows,
	schedulingRows,
	storageRows,
	storagemigrationRows,
}

// Rows returns the rows of all built-in kinds.
func Rows() []*Resource {
	var all []*Resource
	for _, rows := range groups {
		all = slices.Concat(all, rows())
	}
	return all
}
