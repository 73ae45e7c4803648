package api

// coreRows is the group "" v1.
func coreRows() []*Resource {
	return []*Resource{
		configMapRow(),
	}
}
