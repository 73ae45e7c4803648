package api

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
	}
}
