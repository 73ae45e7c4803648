package aggregate

type documents struct{}
