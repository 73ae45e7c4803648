package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

// renewal is how often a node renews its lease: a quarter of the 40 s that it is
// good for, as kubelets do.
const renewal = 10 * time.Second

// enterNodes registers nodes as kubelets do and keeps them alive until leave is
// called, which takes them out again. Nothing runs on them.
func enterNodes(ctx context.Context, kubeconfig string, names ...string) (leave func() error, err error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := register(ctx, c, name); err != nil {
			return nil, fmt.Errorf("registering node %s: %w", name, err)
		}
	}
	keeping, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- keep(keeping, c, names) }()
	pods := informers.NewSharedInformerFactory(c, 0)
	if _, err := pods.Core().V1().Pods().Informer().AddEventHandler(undertaker(keeping, c, names)); err != nil {
		cancel()
		return nil, errors.Join(err, <-done)
	}
	pods.Start(keeping.Done())
	leave = func() error {
		cancel()
		pods.Shutdown()
		errs := []error{<-done}
		for _, name := range names {
			errs = append(errs, c.CoreV1().Nodes().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{}))
		}
		return errors.Join(errs...)
	}
	if err := untainted(ctx, c, names); err != nil {
		return nil, errors.Join(err, leave())
	}
	return leave, nil
}

func register(ctx context.Context, c kubernetes.Interface, name string) error {
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	now := metav1.Now()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: name}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
				Message: "registered for tests that look at nodes", LastHeartbeatTime: now, LastTransitionTime: now}},
		},
	}
	if _, err := c.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return err
	}
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error { // controllers write to it, too
		made, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		made.Status = node.Status
		_, err = c.CoreV1().Nodes().UpdateStatus(ctx, made, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &name, LeaseDurationSeconds: ptr.To[int32](40), RenewTime: &metav1.MicroTime{Time: time.Now()}},
	}
	_, err = c.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{})
	return err
}

// undertaker confirms the deletion of the nodes' pods, as a kubelet does when
// nothing of them runs any more.
func undertaker(ctx context.Context, c kubernetes.Interface, names []string) cache.ResourceEventHandler {
	look := func(obj any) {
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod.DeletionTimestamp == nil || !slices.Contains(names, pod.Spec.NodeName) {
			return
		}
		gone := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
		err := c.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, gone)
		if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			fmt.Fprintf(os.Stderr, "conformance: pod %s/%s stays: %v\n", pod.Namespace, pod.Name, err)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }}
}

// keep renews the leases until ctx ends.
func keep(ctx context.Context, c kubernetes.Interface, names []string) error {
	var errs []error
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		for _, name := range names {
			patch := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
			_, err := c.CoordinationV1().Leases(corev1.NamespaceNodeLease).Patch(ctx, name, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
			if err != nil && ctx.Err() == nil {
				errs = append(errs, fmt.Errorf("renewing node %s: %w", name, err))
			}
		}
	}, renewal)
	return errors.Join(errs...)
}

// untainted waits until the node controller has heard of each node.
func untainted(ctx context.Context, c kubernetes.Interface, names []string) error {
	for _, name := range names {
		err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, startTime, true, func(ctx context.Context) (bool, error) {
			node, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			return err == nil && len(node.Spec.Taints) == 0, err
		})
		if err != nil {
			return fmt.Errorf("waiting for node %s to lose its taints: %w", name, err)
		}
	}
	return nil
}
