package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth"
)

// provision makes a namespace that something is to be created in.
func (s *Server) provision(ctx context.Context, name string) error {
	_, err := s.Client(auth.System("system:apiserver")).Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return err
}
