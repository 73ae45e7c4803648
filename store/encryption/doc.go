// Package encryption seals what the datastore keeps of some resources, Secrets
// above all: it is a store.Sealer that follows Kubernetes'
// EncryptionConfiguration (apiserver.config.k8s.io/v1) and writes the formats
// that are usual for its providers.
//
// It promises that a value whose resource is configured reaches the engine only
// sealed by the first key of its providers, that every key of the configuration
// can still open what it sealed, and that what cannot be opened is an error that
// names the key which is missing. A value is bound to its place: sealed bytes
// that were put under another name do not open.
//
// An instance that was given no configuration has one of its own (Local), with
// a key that it makes itself; Rotate replaces that key.
package encryption
