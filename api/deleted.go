package api

// returnsDeleted are the kinds whose delete answers with the object that was
// rather than with a Status. Clients decode the one or the other; which kinds
// these are is in the responses of Kubernetes' published OpenAPI document.
var returnsDeleted = map[string]bool{
	"pods": true, "services": true, "serviceaccounts": true, "persistentvolumes": true,
	"persistentvolumeclaims": true, "podtemplates": true, "resourcequotas": true,
	"resource.k8s.io/deviceclasses": true, "resource.k8s.io/resourceclaims": true,
	"resource.k8s.io/resourceclaimtemplates": true, "resource.k8s.io/resourceslices": true,
	"storage.k8s.io/csidrivers": true, "storage.k8s.io/csinodes": true, "storage.k8s.io/storageclasses": true,
	"storage.k8s.io/volumeattachments": true, "storage.k8s.io/volumeattributesclasses": true,
}

// ReturnsDeleted tells whether a delete of the resource, named by its key,
// answers with the object.
func ReturnsDeleted(key string) bool { return returnsDeleted[key] }
