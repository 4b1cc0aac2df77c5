// Package sqlitex stands in for crawshaw.io/sqlite/sqlitex.
package sqlitex

import (
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// Exec runs one statement, and calls f for each row.
func Exec(conn *sqlite.Conn, query string, f func(*sqlite.Stmt) error, args ...any) error {
	return sqlitex.Execute(conn, query, &sqlitex.ExecOptions{ResultFunc: f, Args: args})
}

// ExecTransient runs one statement without keeping it prepared.
func ExecTransient(conn *sqlite.Conn, query string, f func(*sqlite.Stmt) error, args ...any) error {
	return sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{ResultFunc: f, Args: args})
}

// Save begins a savepoint, which the returned function ends.
func Save(conn *sqlite.Conn) func(*error) { return sqlitex.Save(conn) }
