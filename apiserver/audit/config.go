package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Modes of a sink.
const (
	ModeBatch    = "batch"
	ModeBlocking = "blocking"
	ModeStrict   = "blocking-strict"
)

// Config is what kube-apiserver's flags --audit-* say.
type Config struct {
	PolicyFile string
	// Log is where lines go to; an empty path writes none.
	Log     FileConfig
	LogMode string // blocking unless set
	// WebhookConfig is a kubeconfig that names a server; WebhookMode is batch
	// unless set.
	WebhookConfig  string
	WebhookMode    string
	WebhookBackoff time.Duration
	Batch          BatchConfig
}

// Service is an Auditor with what must run and be closed for it.
type Service struct {
	Auditor *Auditor
	batches []*Batch
	file    *File
}

// Open reads the files that the configuration names. Without a policy, or
// without anywhere to record to, the Auditor is nil.
func Open(c Config, now func() time.Time, log *slog.Logger) (*Service, error) {
	s := &Service{}
	if c.PolicyFile == "" {
		if c.Log.Path != "" || c.WebhookConfig != "" {
			return nil, errors.New("the audit log needs --audit-policy-file: without a policy nothing is recorded")
		}
		return s, nil
	}
	policy, err := LoadPolicy(c.PolicyFile)
	if err != nil {
		return nil, err
	}
	for flag, mode := range map[string]string{"--audit-log-mode": c.LogMode, "--audit-webhook-mode": c.WebhookMode} {
		if !slices.Contains([]string{"", ModeBatch, ModeBlocking, ModeStrict}, mode) {
			return nil, fmt.Errorf("%s must be batch, blocking or blocking-strict, not %q", flag, mode)
		}
	}
	sinks, err := s.open(c, now, log)
	if err != nil {
		return nil, err
	}
	if len(sinks) > 0 {
		s.Auditor = &Auditor{policy: policy, sinks: sinks, now: now, log: log, strict: c.LogMode == ModeStrict || c.WebhookMode == ModeStrict}
	}
	return s, nil
}

func (s *Service) open(c Config, now func() time.Time, log *slog.Logger) (sinks []Sink, err error) {
	if c.Log.Path != "" {
		if s.file, err = OpenFile(c.Log, now); err != nil {
			return nil, fmt.Errorf("the audit log: %w", err)
		}
		if c.LogMode == ModeBatch {
			sinks = append(sinks, s.batch(c.Batch, log, s.file.PutAll))
		} else {
			sinks = append(sinks, s.file)
		}
	}
	if c.WebhookConfig != "" {
		w, err := OpenWebhook(c.WebhookConfig, c.WebhookBackoff)
		if err != nil {
			return nil, err
		}
		if c.WebhookMode == "" || c.WebhookMode == ModeBatch {
			sinks = append(sinks, s.batch(c.Batch, log, w.Send))
		} else {
			sinks = append(sinks, w)
		}
	}
	return sinks, nil
}

func (s *Service) batch(c BatchConfig, log *slog.Logger, send sender) Sink {
	b := NewBatch(c, log, send)
	s.batches = append(s.batches, b)
	return b
}

// Run hands on what is sent in batches, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	done := make(chan error, len(s.batches))
	for _, b := range s.batches {
		go func() { done <- b.Run(ctx) }()
	}
	<-ctx.Done()
	var errs []error
	for range s.batches {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

// Close is for when Run has ended.
func (s *Service) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
