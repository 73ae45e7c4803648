package store

// Export tells every object at one revision, as an engine would keep it, without
// keeping anybody from writing. The revision is told first.
func (s *Store) Export(begin func(revision uint64) error, emit func(Entry) error) error {
	w := s.world.Load()
	if err := begin(w.revision); err != nil {
		return err
	}
	var err error
	w.trees.Scan(func(_ string, t *tree) bool {
		t.records.Scan(func(r *Record) bool {
			e := Entry{Key: r.key, Revision: r.revision}
			if e.Value, err = s.shared.keep(r); err == nil {
				err = emit(e)
			}
			return err == nil
		})
		return err == nil
	})
	return err
}
