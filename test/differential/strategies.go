// Package differential holds proa's rows against Kubernetes' own strategies: the
// same objects, changed at random, are defaulted, prepared and validated by both,
// and what differs is printed with its path and reason. It is a module of its own:
// nothing of k8s.io/kubernetes reaches the binary.
package differential

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	map_ "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	mapb "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	mwc "k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	vap "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	vapb "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	vwc "k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	plc "k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	pdb "k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"

	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"
)

type both interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

type strategy struct {
	main both
	subs map[string]rest.RESTUpdateStrategy
}

func st(main both, status rest.RESTUpdateStrategy) strategy {
	s := strategy{main, map[string]rest.RESTUpdateStrategy{}}
	if status != nil {
		s.subs["status"] = status
	}
	return s
}

var pcr = podcertificaterequest.NewStrategy()
var rcNS = resourceclaim.NewStrategy(nil, nil)
var rctNS = resourceclaimtemplate.NewStrategy(nil)

var strategies = map[string]strategy{
	"admissionregistration.k8s.io/mutatingwebhookconfigurations":     st(mwc.Strategy, nil),
	"admissionregistration.k8s.io/validatingwebhookconfigurations":   st(vwc.Strategy, nil),
	"admissionregistration.k8s.io/validatingadmissionpolicies":       st(vap.NewStrategy(nil, nil), nil),
	"admissionregistration.k8s.io/validatingadmissionpolicybindings": st(vapb.NewStrategy(nil, nil, nil), nil),
	"admissionregistration.k8s.io/mutatingadmissionpolicies":         st(map_.NewStrategy(nil, nil), nil),
	"admissionregistration.k8s.io/mutatingadmissionpolicybindings":   st(mapb.NewStrategy(nil, nil, nil), nil),
	"apps/controllerrevisions":                                       st(controllerrevision.Strategy, nil),
	"apps/daemonsets":                                                st(daemonset.Strategy, daemonset.StatusStrategy),
	"apps/deployments":                                               st(deployment.Strategy, deployment.StatusStrategy),
	"apps/replicasets":                                               st(replicaset.Strategy, replicaset.StatusStrategy),
	"apps/statefulsets":                                              st(statefulset.Strategy, statefulset.StatusStrategy),
	"autoscaling/horizontalpodautoscalers":                           st(horizontalpodautoscaler.Strategy, horizontalpodautoscaler.StatusStrategy),
	"batch/jobs":                                                     st(job.Strategy, job.StatusStrategy),
	"batch/cronjobs":                                                 st(cronjob.Strategy, cronjob.StatusStrategy),
	"certificates.k8s.io/certificatesigningrequests":                 {certificates.Strategy, map[string]rest.RESTUpdateStrategy{"status": certificates.StatusStrategy, "approval": certificates.ApprovalStrategy}},
	"certificates.k8s.io/clustertrustbundles":                        st(clustertrustbundle.Strategy, nil),
	"certificates.k8s.io/podcertificaterequests":                     st(pcr, nil),
	"coordination.k8s.io/leases":                                     st(lease.Strategy, nil),
	"configmaps":                                                     st(configmap.Strategy, nil),
	"endpoints":                                                      st(endpoint.Strategy, nil),
	"events":                                                         st(event.Strategy, nil),
	"limitranges":                                                    st(limitrange.Strategy, nil),
	"namespaces":                                                     {namespace.Strategy, map[string]rest.RESTUpdateStrategy{"status": namespace.StatusStrategy, "finalize": namespace.FinalizeStrategy}},
	"nodes":                                                          st(node.Strategy, node.StatusStrategy),
	"persistentvolumes":                                              st(persistentvolume.Strategy, persistentvolume.StatusStrategy),
	"persistentvolumeclaims":                                         st(persistentvolumeclaim.Strategy, persistentvolumeclaim.StatusStrategy),
	"pods":                                                           {pod.Strategy, map[string]rest.RESTUpdateStrategy{"status": pod.StatusStrategy, "ephemeralcontainers": pod.EphemeralContainersStrategy, "resize": pod.ResizeStrategy}},
	"podtemplates":                                                   st(podtemplate.Strategy, nil),
	"replicationcontrollers":                                         st(replicationcontroller.Strategy, replicationcontroller.StatusStrategy),
	"resourcequotas":                                                 st(resourcequota.Strategy, resourcequota.StatusStrategy),
	"secrets":                                                        st(secret.Strategy, nil),
	"services":                                                       st(service.Strategy, service.StatusStrategy),
	"serviceaccounts":                                                st(serviceaccount.Strategy, nil),
	"discovery.k8s.io/endpointslices":                                st(endpointslice.Strategy, nil),
	"flowcontrol.apiserver.k8s.io/flowschemas":                       st(flowschema.Strategy, flowschema.StatusStrategy),
	"flowcontrol.apiserver.k8s.io/prioritylevelconfigurations": st(plc.Strategy, plc.StatusStrategy),
	"networking.k8s.io/ingresses":                              st(ingress.Strategy, ingress.StatusStrategy),
	"networking.k8s.io/ingressclasses":                         st(ingressclass.Strategy, nil),
	"networking.k8s.io/ipaddresses":                            st(ipaddress.Strategy, nil),
	"networking.k8s.io/networkpolicies":                        st(networkpolicy.Strategy, nil),
	"networking.k8s.io/servicecidrs":                           st(servicecidr.Strategy, servicecidr.StatusStrategy),
	"node.k8s.io/runtimeclasses":                               st(runtimeclass.Strategy, nil),
	"policy/poddisruptionbudgets":                              st(pdb.Strategy, pdb.StatusStrategy),
	"rbac.authorization.k8s.io/clusterroles":                   st(clusterrole.Strategy, nil),
	"rbac.authorization.k8s.io/clusterrolebindings":            st(clusterrolebinding.Strategy, nil),
	"rbac.authorization.k8s.io/roles":                          st(role.Strategy, nil),
	"rbac.authorization.k8s.io/rolebindings":                   st(rolebinding.Strategy, nil),
	"resource.k8s.io/deviceclasses":                            st(deviceclass.Strategy, nil),
	"resource.k8s.io/devicetaintrules":                         st(devicetaintrule.Strategy, devicetaintrule.StatusStrategy),
	"resource.k8s.io/resourceclaims":                           st(rcNS, resourceclaim.NewStatusStrategy(rcNS)),
	"resource.k8s.io/resourceclaimtemplates":                   st(rctNS, nil),
	"resource.k8s.io/resourceslices":                           st(resourceslice.Strategy, nil),
	"scheduling.k8s.io/priorityclasses":                        st(priorityclass.Strategy, nil),
	"storage.k8s.io/csidrivers":                                st(csidriver.Strategy, nil),
	"storage.k8s.io/csinodes":                                  st(csinode.Strategy, csinode.StatusStrategy),
	"storage.k8s.io/csistoragecapacities":                      st(csistoragecapacity.Strategy, nil),
	"storage.k8s.io/storageclasses":                            st(storageclass.Strategy, nil),
	"storage.k8s.io/volumeattachments":                         st(volumeattachment.Strategy, volumeattachment.StatusStrategy),
	"storage.k8s.io/volumeattributesclasses":                   st(volumeattributesclass.Strategy, nil),
	"storagemigration.k8s.io/storageversionmigrations":         st(storagemigration.Strategy, storagemigration.StatusStrategy),
}

var _ runtime.Object
