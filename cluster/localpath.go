package cluster

import (
	"context"
	"fmt"
	"path/filepath"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/kubelet/localpath"
)

// startLocalVolumes gives claims that name no class a directory of this node.
func (c *Cluster) startLocalVolumes(ctx context.Context, _ *node) error {
	provisioner := c.Client("system:local-path-provisioner")
	if _, err := provisioner.Create(ctx, localpath.Class()); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("the default storage class: %w", err)
	}
	c.parts.Go("local volumes", func(ctx context.Context) error {
		return localpath.Run(ctx, localpath.Config{Client: provisioner, NodeName: c.cfg.NodeName,
			Dir: filepath.Join(c.cfg.DataDir, "kubelet", "volumes"), Log: c.cfg.Log})
	})
	return nil
}
