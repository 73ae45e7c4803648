// Package codec turns API objects into bytes and back: the storage encoding, the
// bodies that clients send, and the answers they get.
//
// It promises that a stored object is encoded at most once per encoding and
// version, however many readers there are. Protobuf answers are the storage
// bytes themselves with the resourceVersion appended as one more occurrence of
// the metadata field, which a protobuf reader merges into the first; JSON
// answers are made on first use and kept with the record.
package codec
