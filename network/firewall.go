package network

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"proa/internal/nft"
)

// comment marks our rules in chains of others.
const comment = "proa: traffic of pods"

// Run keeps the node's rules until ctx ends: it makes them again when somebody
// removed them, and lets pods' traffic pass where another firewall forwards
// nothing by default, as those of Docker and ufw do. It sleeps while nobody
// changes the machine's rules.
func (n *Network) Run(ctx context.Context) error {
	w, err := nft.Watch(n.rules)
	if err != nil {
		return err
	}
	if err := n.letThrough(); err != nil {
		n.cfg.Log.Warn("another firewall may drop the traffic of pods", "error", err)
	}
	return w.Run(ctx, func(removed func(string) bool) {
		if removed(table) {
			n.cfg.Log.Warn("somebody removed the rules of the pod network; they are made again")
			if err := n.installRules(); err != nil {
				n.cfg.Log.Error("the rules of the pod network are missing", "error", err)
			}
		}
		if err := n.letThrough(); err != nil {
			n.cfg.Log.Warn("another firewall may drop the traffic of pods", "error", err)
		}
	})
}

// letThrough accepts what comes from and goes to pods before the rules of each
// chain that would drop it.
func (n *Network) letThrough() error {
	cidr := n.cfg.ClusterCIDR
	return eachForward(n.rules, uint8(nft.FamilyOf(cidr.Addr())), func(c nft.BaseChain, ours []uint64, b *nft.Batch) {
		if !c.Drops || len(ours) > 0 {
			return
		}
		n.cfg.Log.Info("letting the traffic of pods through another firewall", "table", c.Table, "chain", c.Name)
		b.InsertRule(c.Name, comment, nft.Rule{nft.From(cidr), nft.Accept()})
		b.InsertRule(c.Name, comment, nft.Rule{nft.To(cidr), nft.Accept()})
	})
}

// shutOut takes back what letThrough did.
func shutOut(rules *nft.Conn) error {
	var errs []error
	for _, f := range families {
		errs = append(errs, eachForward(rules, uint8(f), func(c nft.BaseChain, ours []uint64, b *nft.Batch) {
			for _, handle := range ours {
				b.DelRule(c.Name, handle)
			}
		}))
	}
	return errors.Join(errs...)
}

// eachForward lets f write to a transaction on each chain of others that sees
// forwarded packets; ours are the rules there that we made.
func eachForward(rules *nft.Conn, family uint8, f func(c nft.BaseChain, ours []uint64, b *nft.Batch)) error {
	chains, err := rules.BaseChains(family)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range chains {
		if c.Hook != unix.NF_INET_FORWARD {
			continue
		}
		ours, err := rules.Handles(family, c.Table, c.Name, comment)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b := nft.NewBatchIn(family, c.Table)
		f(c, ours, b)
		errs = append(errs, rules.Apply(b))
	}
	return errors.Join(errs...)
}
