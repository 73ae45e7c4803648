package clienttest

import (
	"context"
	"encoding/json"
	"reflect"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"proa/api"
	"proa/client"
)

// Patch takes JSON, merge and strategic merge patches; apply is beyond it.
func (c *Client) Patch(_ context.Context, row *api.Resource, key client.Key, subresource string, p client.Patch) (client.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.now.Get(row, key.Namespace, key.Name)
	if old == nil {
		return nil, apierrors.NewNotFound(row.GR(), key.Name)
	}
	if err := c.fault("patch", old, subresource); err != nil {
		return nil, err
	}
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	after, err := patched(before, p, old)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	obj := reflect.New(reflect.TypeOf(old).Elem()).Interface().(client.Object)
	if err := json.Unmarshal(after, obj); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return c.replace(row, old, obj, subresource)
}

func patched(before []byte, p client.Patch, schema client.Object) ([]byte, error) {
	switch p.Type {
	case types.StrategicMergePatchType:
		return strategicpatch.StrategicMergePatch(before, p.Data, schema)
	case types.MergePatchType:
		return jsonpatch.MergePatch(before, p.Data)
	case types.JSONPatchType:
		ops, err := jsonpatch.DecodePatch(p.Data)
		if err != nil {
			return nil, err
		}
		return ops.Apply(before)
	default:
		return nil, apierrors.NewBadRequest("clienttest does not know patch type " + string(p.Type))
	}
}

// Post serves pods' binding and eviction (without disruption budgets).
func (c *Client) Post(ctx context.Context, row *api.Resource, key client.Key, subresource string, body client.Object) (client.Object, error) {
	if err := c.fault("post", body, subresource); err != nil {
		return nil, err
	}
	switch body := body.(type) {
	case *corev1.Binding:
		return body, c.bind(row, key, body)
	case *policyv1.Eviction:
		opts := metav1.DeleteOptions{}
		if body.DeleteOptions != nil {
			opts = *body.DeleteOptions
		}
		return body, c.Delete(ctx, row, key, opts)
	case *autoscalingv1.Scale:
		return c.scale(ctx, row, key, body)
	default:
		return nil, apierrors.NewNotFound(row.GR(), key.Name+"/"+subresource)
	}
}

func (c *Client) scale(ctx context.Context, row *api.Resource, key client.Key, s *autoscalingv1.Scale) (client.Object, error) {
	obj := c.View().Get(row, key.Namespace, key.Name)
	sub := row.Subresource("scale")
	if obj == nil || sub == nil {
		return nil, apierrors.NewNotFound(row.GR(), key.Name)
	}
	next := obj.DeepCopyObject().(client.Object)
	sub.Scale.Set(next, s.Spec.Replicas)
	_, err := c.Update(ctx, next, "")
	return s, err
}

func (c *Client) bind(row *api.Resource, key client.Key, b *corev1.Binding) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, _ := c.now.Get(row, key.Namespace, key.Name).(*corev1.Pod)
	switch {
	case old == nil:
		return apierrors.NewNotFound(row.GR(), key.Name)
	case b.UID != "" && b.UID != old.UID, old.Spec.NodeName != "", old.DeletionTimestamp != nil:
		return apierrors.NewConflict(row.GR(), key.Name, errBound)
	}
	pod := old.DeepCopy()
	pod.Spec.NodeName = b.Target.Name
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	c.commit(row, old, pod)
	return nil
}
