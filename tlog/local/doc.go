// Package local is the log in this process: a directory with a Pebble store, and one goroutine that puts leaves in order.
// It is the only home of Pebble.
//
// # What is always true
//
//   - Append returned: the leaf, its place and every tile it completed are synced to the disk, in one batch with the
//     leaves of its call, and its index is fixed for ever.
//   - Nothing is signed that was not read back from the store, hashed again in three ways, and accepted by the anchor
//     by compare-and-swap. Nothing is published whose signature was not checked with the pinned key, and, where a policy
//     is given, that its quorum has not cosigned. The tail alone shows what is durable and not published, to those who write.
//   - After a start nothing new is anchored or signed before the witnesses, where there are any, have been asked what
//     they last saw.
//   - A contradiction between the store, the head file, the anchor and what was ever signed ends in quarantine: the
//     log serves reads, signs nothing, appends nothing, and writes both statements down. No repair shortens a log.
//   - No decision is taken by the clock. It paces, and it dates the size row for people to read.
//
// # The directory
//
//	pebble/       the store, with Pebble's lock against a second process
//	HEAD          the head file, unless Config.Head puts it elsewhere
//	safety/       second names of the store's files, between the two opens of a start
//	ballast       room for an operator on a full disk: remove it, and it is made again at a later start
//	quarantine/   a directory for each contradiction: README.txt and the two statements a and b
//	QUARANTINE    the mark of one: the next start checks everything before it goes on
//
// # The store
//
// Rows lie under sequential keys: what is written together lies together, and compactions move files, not rows. Only
// the digests of payloads are random keys; they are short, and written in bulk beside the checkpoints.
//
//	e index         flags, the payload's digest if there is one, the entry
//	p index part    the payload, a MiB in each part
//	d digest index  that the payload with a digest that begins so may lie there
//	i               up to which entry there are d rows; the rest is looked for in the entries
//	x digest        that payload was discarded and never comes back
//	g index         the payload there was discarded, and not purged from the files yet
//	t level tile    256 hashes, written in the batch that completes the tile
//	c size          a signed checkpoint; of those of one second the last stays, with witnesses those that were
//	                published, and the newest always
//	s               format, size, root and time of the last batch
//
// The tiles that are not full are kept in memory and computed from the rows when the log is opened.
//
// # What may be lost
//
// The end of the process, however sudden, loses nothing that was acknowledged, and HEAD knows all of it: it is written
// after the sync and before the caller is told. A loss of power loses nothing that was acknowledged on a disk that keeps
// what it synced; HEAD is synced before every anchoring and every signature, so it may lag by what was acknowledged
// since the last checkpoint, which is Config.Interval while the anchor answers. Where the disk lies, or the store is put
// back from an old copy, HEAD and the anchor show it at the next start; what was acknowledged after the newest anchored
// checkpoint is shown by HEAD alone, which is why it belongs on another disk.
//
// One flipped bit in a write-ahead log can make Pebble forget every later record, and one in a manifest can make it
// forget and delete whole tables, both without an error. That is why a start opens read-only first, hashes the newest
// Config.Rehash entries again, whether the last end was clean or not, compares with all who remember, links every file
// under a second name, and only then opens for writing and compares again.
//
// # Two writers
//
// The lock keeps a second process off the directory. It does not see a copy: that the anchor does, whose compare-and-swap
// only one of the two can win; and where the anchor was copied too, the witnesses. The loser goes into quarantine. It may until then have acknowledged leaves that the winner
// does not have, but never more than are acknowledged between two checkpoints.
package local
