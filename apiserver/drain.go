package apiserver

// Drain is for a server that is about to stop: /readyz fails, so that nobody
// new comes, and watches and streams end, so that their clients go elsewhere.
// Ordinary requests are served as before.
func (s *Server) Drain() {
	s.stopping.Store(true)
	s.drain()
}
