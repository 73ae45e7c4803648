package cluster

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/leader"
	"proa/store/etcd"
)

// shared tells whether other servers may work on the same datastore.
func (c *Cluster) shared() bool { return len(c.cfg.Datastore.Endpoints) > 0 }

// peer is this server's name among those that share a datastore.
func (c *Cluster) peer() string {
	if !c.shared() {
		return ""
	}
	return net.JoinHostPort(c.cfg.NodeName, strconv.Itoa(c.cfg.APIPort))
}

// claimWait is how long etcd may take to say whose data it holds.
const claimWait = 20 * time.Second

func (c *Cluster) openEtcd() (*etcd.Engine, error) {
	d := c.cfg.Datastore
	engine, err := etcd.Open(etcd.Config{Endpoints: d.Endpoints, CA: d.CA, Cert: d.Cert, Key: d.Key, Prefix: d.Prefix, Log: c.cfg.Log})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), claimWait)
	defer cancel()
	keys, err := c.secrets.fingerprint()
	if err == nil {
		err = engine.Claim(ctx, c.authority.ID(), keys)
	}
	if err != nil {
		return nil, errors.Join(err, engine.Close())
	}
	return engine, nil
}

// once runs a part on one of the servers: on this one, or, where they share a
// datastore, on whichever holds the lease.
func (c *Cluster) once(part, lease string, as client.Client, run func(context.Context) error) {
	if !c.shared() {
		c.parts.Go(part, run)
		return
	}
	c.parts.Go(part, func(ctx context.Context) error {
		return leader.Run(ctx, leader.Config{Client: as, Namespace: metav1.NamespaceSystem, Name: lease, Identity: c.peer(), Duration: c.cfg.leaseDuration, Log: c.cfg.Log}, run)
	})
}
