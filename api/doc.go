// Package api is the table of kinds: one Resource row each, which says
// everything the rest of the program needs to know of a kind: its names and
// scope, its Go type, its defaults, validation, create and update strategy,
// subresources, table columns, selectable fields and indexes.
//
// Types come from k8s.io/api and are used as they are: one Go type a kind, the
// wire type of the storage version. Rows are pure: no I/O, no clock, no
// globals besides the table itself. CustomResourceDefinitions make the same
// rows at run time.
package api

//go:generate go run ./generate
