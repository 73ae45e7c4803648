package cli

import (
	"github.com/spf13/pflag"

	"proa/apiserver/audit"
)

// auditFlags are those of kube-apiserver.
func auditFlags(fl *pflag.FlagSet, c *audit.Config) {
	fl.StringVar(&c.PolicyFile, "audit-policy-file", "", "an audit Policy (audit.k8s.io/v1): what is recorded of requests")
	fl.StringVar(&c.Log.Path, "audit-log-path", "", "where audit events are written to; - is standard output")
	fl.StringVar(&c.LogMode, "audit-log-mode", audit.ModeBlocking, "batch, blocking or blocking-strict")
	fl.IntVar(&c.Log.MaxAge, "audit-log-maxage", 0, "how many days full audit logs are kept (0: for ever)")
	fl.IntVar(&c.Log.MaxBackups, "audit-log-maxbackup", 0, "how many full audit logs are kept (0: all)")
	fl.IntVar(&c.Log.MaxSize, "audit-log-maxsize", 0, "the size in MiB from which a new audit log is begun (0: 100)")
	fl.BoolVar(&c.Log.Compress, "audit-log-compress", false, "compress full audit logs")
	fl.StringVar(&c.WebhookConfig, "audit-webhook-config-file", "", "a kubeconfig that names the server which audit events are sent to")
	fl.StringVar(&c.WebhookMode, "audit-webhook-mode", audit.ModeBatch, "batch, blocking or blocking-strict")
	fl.DurationVar(&c.WebhookBackoff, "audit-webhook-initial-backoff", 0, "how long to wait before the first retry of the audit webhook (default 10s)")
	fl.IntVar(&c.Batch.Buffer, "audit-webhook-batch-buffer-size", 0, "how many audit events may wait; further ones are dropped (default 10000)")
	fl.IntVar(&c.Batch.Size, "audit-webhook-batch-max-size", 0, "how many audit events are sent at once (default 400)")
	fl.DurationVar(&c.Batch.Wait, "audit-webhook-batch-max-wait", 0, "how long a batch of audit events waits to be full (default 30s)")
}
