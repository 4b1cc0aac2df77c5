module crawshaw.io/sqlite

go 1.26.0

require zombiezen.com/go/sqlite v1.4.2
