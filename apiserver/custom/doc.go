// Package custom serves CustomResourceDefinitions: it makes the registry's rows
// of them while the server runs, decides their names and conditions, and takes
// their instances away before they go.
//
// It promises:
//   - A definition that says Established is served, by this server, at once.
//   - Rows are cheap: schemas are read, and CEL rules compiled, when an object
//     first needs them, once a version of a definition. Without definitions
//     nothing is made.
//   - What clients see is converted, pruned and defaulted by the definition of
//     now, whatever was stored; what is stored is of the storage version.
//   - No rule and no webhook holds anybody up but the request that needs it.
package custom
