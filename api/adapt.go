package api

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The functions below let a row be written with functions of its own Go type:
// Default: on(defaultDeployment), where defaultDeployment takes a
// *appsv1.Deployment. A row never meets an object of another type.

// maker makes empty objects: New: maker[appsv1.Deployment]().
func maker[T any, P interface {
	*T
	Object
}]() func() Object {
	return func() Object { return P(new(T)) }
}

// lister makes empty lists: NewList: lister[appsv1.DeploymentList]().
func lister[T any, P interface {
	*T
	runtime.Object
}]() func() runtime.Object {
	return func() runtime.Object { return P(new(T)) }
}

func on[P Object](f func(obj P)) func(Object) {
	return func(obj Object) { f(obj.(P)) }
}

func onUpdate[P Object](f func(obj, old P)) func(Object, Object) {
	return func(obj, old Object) { f(obj.(P), old.(P)) }
}

func judge[P Object](f func(obj P) field.ErrorList) func(Object) field.ErrorList {
	return func(obj Object) field.ErrorList { return f(obj.(P)) }
}

func judgeUpdate[P Object](f func(obj, old P) field.ErrorList) func(Object, Object) field.ErrorList {
	return func(obj, old Object) field.ErrorList { return f(obj.(P), old.(P)) }
}
