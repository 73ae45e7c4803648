package apiserver

import (
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/apiserver/endpoint"
)

// componentStatuses are made when they are asked for: all components are this
// process, which answers, and the datastore.
func (c *call) componentStatuses() error {
	all := []*corev1.ComponentStatus{
		componentStatus("scheduler", nil), componentStatus("controller-manager", nil),
		componentStatus("etcd-0", c.s.cfg.Store.Healthy(c.r.Context())),
	}
	if c.t.Verb == "get" {
		for _, s := range all {
			if s.Name == c.q.Name {
				return c.unstored(http.StatusOK, s)
			}
		}
		return apierrors.NewNotFound(c.served.GR(), c.q.Name)
	}
	list := &corev1.ComponentStatusList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ComponentStatusList"}}
	var objs []api.Object
	for _, s := range all {
		list.Items, objs = append(list.Items, *s), append(objs, s)
	}
	if c.w.As == "Table" {
		return c.table(http.StatusOK, objs, endpoint.List{})
	}
	c.w.As = ""
	c.object(http.StatusOK, c.w, list)
	return nil
}

func componentStatus(name string, err error) *corev1.ComponentStatus {
	cond := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
	if err != nil {
		cond = corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Message: err.Error()}
	}
	return &corev1.ComponentStatus{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ComponentStatus"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{cond}}
}
