// Package migration has the objects of a resource stored again, so that all of
// them are in today's storage version and sealed by today's key
// (StorageVersionMigration, KEP-4192).
//
// An update that changes nothing is how: the server writes it only where what is
// stored would come out differently.
package migration

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/reconcile"
)

type controller struct{ registry *api.Registry }

// Controller is the storage version migrator.
func Controller(registry *api.Registry) reconcile.Controller {
	c := &controller{registry}
	return reconcile.Controller{
		Name:    "storage-version-migrator-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[storagemigrationv1.StorageVersionMigration]()}},
		Decide:  c.decide,
	}
}

func (c *controller) decide(v client.View, now time.Time, key client.Key) reconcile.Plan {
	m := client.Get[storagemigrationv1.StorageVersionMigration](v, "", key.Name)
	if m == nil || m.DeletionTimestamp != nil || is(m, storagemigrationv1.MigrationSucceeded) || is(m, storagemigrationv1.MigrationFailed) {
		return reconcile.Plan{}
	}
	row := c.row(m)
	what := metav1.GroupResource(m.Spec.Resource)
	switch {
	case row == nil:
		return reconcile.Plan{Writes: []reconcile.Write{ended(m, now, storagemigrationv1.MigrationFailed, "StorageVersionMigrationFailed",
			fmt.Sprintf("resource %s does not exist", what.String()))}}
	case !is(m, storagemigrationv1.MigrationRunning):
		next := m.DeepCopy()
		next.Status.ResourceVersion = strconv.FormatUint(v.Revision(), 10)
		set(next, now, storagemigrationv1.MigrationRunning, true, "MigrationRunning", "The migration is running")
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
	}
	return migrate(v, now, row, m)
}

func (c *controller) row(m *storagemigrationv1.StorageVersionMigration) *api.Resource {
	key := m.Spec.Resource.Resource
	if g := m.Spec.Resource.Group; g != "" {
		key = g + "/" + key
	}
	row := c.registry.ByKey(key)
	if row == nil || row.NewList == nil || row.Verbs != nil && !slices.Contains(row.Verbs, "update") {
		return nil
	}
	return row
}

// migrate writes every object that nobody has written since the start. What
// somebody else changes meanwhile is stored anew by that: the attempt that this
// ends is followed by one that leaves it out.
func migrate(v client.View, now time.Time, row *api.Resource, m *storagemigrationv1.StorageVersionMigration) reconcile.Plan {
	var plan reconcile.Plan
	start, _ := strconv.ParseUint(m.Status.ResourceVersion, 10, 64)
	for obj := range v.List(row, "") {
		if at, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64); err == nil && at > start {
			continue
		}
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Update, Object: obj, OnError: func(err error) reconcile.Plan {
			if !apierrors.IsInvalid(err) {
				return reconcile.Plan{} // tried again
			}
			return reconcile.Plan{Writes: []reconcile.Write{ended(m, now, storagemigrationv1.MigrationFailed, "StorageVersionMigrationFailed",
				fmt.Sprintf("%s: %v", client.KeyOf(obj), err))}}
		}})
	}
	if w := stored(v, row); w != nil {
		plan.Writes = append(plan.Writes, *w)
	}
	plan.Writes = append(plan.Writes, ended(m, now, storagemigrationv1.MigrationSucceeded, "StorageVersionMigrationSucceeded", "Migration completed"))
	return plan
}

// stored says in a resource's definition that no object is in an older version
// any more.
func stored(v client.View, row *api.Resource) *reconcile.Write {
	crd := client.Get[apiextensionsv1.CustomResourceDefinition](v, "", row.Plural+"."+row.Group)
	if crd == nil || len(crd.Status.StoredVersions) == 1 && crd.Status.StoredVersions[0] == row.Version {
		return nil
	}
	next := crd.DeepCopy()
	next.Status.StoredVersions = []string{row.Version}
	return &reconcile.Write{Op: reconcile.Update, Object: next, Subresource: "status"}
}

func is(m *storagemigrationv1.StorageVersionMigration, t storagemigrationv1.MigrationConditionType) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(t))
}

func ended(m *storagemigrationv1.StorageVersionMigration, now time.Time, t storagemigrationv1.MigrationConditionType, reason, message string) reconcile.Write {
	next := m.DeepCopy()
	set(next, now, storagemigrationv1.MigrationRunning, false, "MigrationCompleted", "Migration completed")
	set(next, now, t, true, reason, message)
	return reconcile.Write{Op: reconcile.Update, Object: next, Subresource: "status"}
}

func set(m *storagemigrationv1.StorageVersionMigration, now time.Time, t storagemigrationv1.MigrationConditionType, value bool, reason, message string) {
	c := metav1.Condition{Type: string(t), Status: metav1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: m.Generation, LastTransitionTime: metav1.NewTime(now)}
	if value {
		c.Status = metav1.ConditionTrue
	}
	if was := meta.FindStatusCondition(m.Status.Conditions, c.Type); was != nil && was.Status == c.Status {
		c.LastTransitionTime = was.LastTransitionTime
	}
	meta.SetStatusCondition(&m.Status.Conditions, c)
}
