// Package sqlite stands in for crawshaw.io/sqlite, which is SQLite in C, with as much of it as Sunlight uses. It passes
// everything on to zombiezen.com/go/sqlite, its descendant, which is SQLite in Go: so the peers build without a C compiler.
package sqlite

import "zombiezen.com/go/sqlite"

// Conn and Stmt are zombiezen's.
type (
	Conn = sqlite.Conn
	Stmt = sqlite.Stmt
	// OpenFlags are how a file is opened. The values are SQLite's own, and so the same.
	OpenFlags = sqlite.OpenFlags
)

const (
	SQLITE_OPEN_CREATE = sqlite.OpenCreate
	OpenFlagsDefault   = sqlite.OpenReadWrite | sqlite.OpenCreate | sqlite.OpenWAL | sqlite.OpenURI
)

// OpenConn opens a database.
func OpenConn(path string, flags OpenFlags) (*Conn, error) { return sqlite.OpenConn(path, flags) }
