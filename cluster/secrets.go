package cluster

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"

	"proa/internal/filewatch"
	"proa/store"
	"proa/store/encryption"
)

// secretsFile is where an instance without a configuration of its own keeps the
// key of its Secrets, below the data directory.
const secretsFile = "encryption.yaml"

// secrets is how this instance seals what must not be on disk as it is.
type secrets struct {
	local *encryption.Local
	keys  *encryption.Keys
	file  string // the configuration, if one was given
}

// openSecrets finds the keys, before the datastore is opened.
func (c *Cluster) openSecrets() (store.Sealer, error) {
	local, err := encryption.OpenLocal(filepath.Join(c.cfg.DataDir, secretsFile))
	if err != nil {
		return nil, err
	}
	c.secrets = secrets{local: local, keys: local.Keys(), file: c.cfg.EncryptionConfig}
	if c.secrets.file == "" {
		return c.secrets.keys, nil
	}
	config, err := c.secrets.read()
	if err != nil {
		return nil, err
	}
	c.secrets.keys = encryption.New(config)
	return c.secrets.keys, nil
}

// read loads the given configuration. What the instance sealed by itself before
// it had one stays readable.
func (s secrets) read() (*encryption.Config, error) {
	config, err := encryption.Load(s.file)
	if err == nil {
		config.Add(s.local.Keys().Config())
	}
	return config, err
}

// fingerprint tells the keys of servers on one datastore apart; "" where a
// configuration says what they are.
func (s secrets) fingerprint() (string, error) {
	if s.file != "" {
		return "", nil
	}
	return s.local.Fingerprint()
}

// secretsHealthy asks what the configuration of the moment relies on: the checks
// of /healthz, /livez and /readyz.
func (c *Cluster) secretsHealthy() map[string]func(context.Context) error {
	if !c.secrets.keys.Plugins() {
		return nil
	}
	return map[string]func(context.Context) error{"kms-providers": c.secrets.keys.Healthy}
}

// startSecrets seals what is on disk unsealed, or half-way through a rotation,
// and follows the configuration's file.
func (c *Cluster) startSecrets(context.Context) error {
	if c.secrets.file != "" {
		c.parts.Go("encryption configuration", func(ctx context.Context) error {
			return filewatch.Watch(ctx, c.secrets.file, c.reloadSecrets)
		})
		return nil
	}
	c.parts.Go("encryption of Secrets", func(ctx context.Context) error {
		if err := c.catchUp(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("Secrets on disk could not be encrypted anew; `proa secrets rewrite` tries again", "err", err)
		}
		<-ctx.Done()
		return nil
	})
	return nil
}

func (c *Cluster) catchUp(ctx context.Context) error {
	if c.secrets.local.Unfinished() && !c.shared() { // others may need the old key
		done, err := c.secrets.local.Rotate(ctx, c.store.Rewrite)
		if err == nil {
			c.cfg.Log.Info("finished a rotation of the key of Secrets", "key", done.Key, "rewritten", done.Rewritten)
		}
		return err
	}
	n, err := c.store.Rewrite(ctx)
	if n > 0 {
		c.cfg.Log.Info("encrypted Secrets that were on disk as they are", "count", n)
	}
	return err
}

// reloadSecrets follows the file. One that is wrong changes nothing.
func (c *Cluster) reloadSecrets() {
	config, err := c.secrets.read()
	if err != nil {
		c.cfg.Log.Error("the encryption configuration is not used: what was read before stays", "err", err)
		return
	}
	c.secrets.keys.Use(config)
}

var errConfigured = errors.New("the keys are those of --encryption-provider-config: put a new key second there, on every server, then first, then `proa secrets rewrite`, then take the old one out")

var errSharedKey = errors.New("servers that share an etcd seal Secrets by the same key, each with a copy of encryption.yaml, and this one cannot change the others' copies: " +
	"start all of them with --encryption-provider-config and one file that has the key of encryption.yaml; then put a new key second there, on every server, then first, then `proa secrets rewrite`, then take the old one out")

func (c *Cluster) handleRotate(w http.ResponseWriter, r *http.Request) {
	if err := c.secrets.mayRotate(c.shared()); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	// Half a rotation is no use to anybody: it goes on when the command ends.
	done, err := c.secrets.local.Rotate(context.WithoutCancel(r.Context()), c.store.Rewrite)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, done)
}

func (s secrets) mayRotate(shared bool) error {
	switch {
	case s.file != "":
		return errConfigured
	case shared:
		return errSharedKey
	}
	return nil
}

func (c *Cluster) handleRewrite(w http.ResponseWriter, r *http.Request) {
	n, err := c.store.Rewrite(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, encryption.Rotated{Rewritten: n})
}
