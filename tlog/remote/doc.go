// Package remote is the log in another process: a [Log] here, and a [Server] before an engine there, with HTTP between
// them. A gateway that appends to one keeps every promise that it keeps beside a log of its own.
//
// # What is always true
//
//   - Append returned indices: the leaves are durable in the log, there once, at these indices.
//   - Append returned tlog.ErrBusy, ErrFull, ErrTooLarge or ErrRefused: nothing of the call is in the log or ever will be.
//     Whatever happened to connections and servers on the way, neither of the two is said of the other.
//   - The leaves of a call that returned, whatever it answered, do not land behind those of a call that began later: of one
//     Log, and of the Logs that one after another append as the same writer.
//   - A server has no memory but of who may append at the moment. One that was killed and started again is the same to its
//     clients as one that was slow.
//
// # Leases
//
// The server gives leases, one to each writer. An append names the epoch of its lease, and the server refuses it unless
// that is the writer's newest. Before it answers with a new lease it waits until the engine has answered for all that came
// under the older ones. So when a client holds a new lease, what it sent before is in the log or never will be, and if it is,
// it lies below the size that the lease names: what is durable then. The client reads the entries up to there, from the
// highest index that it knew when it sent its leaves, and looks for these. It finds them, and tells its callers where; or it
// does not, and sends them again. That is the whole of the recovery: after a lost connection, after a lost answer, after a
// server that was started again, and after a process that was killed, whose successor begins with a lease. There is no
// search at the server, and no list of what was already appended. Nor does it wait for a checkpoint: where witnesses are
// away, and nothing may be published without them, what is durable is found all the same.
//
// A server whose engine leaves the outcome of an append open gives no more leases; it ends, and its successor, which opened
// the log again, does.
//
// # Equal leaves
//
// A log records what happened as often as it happened, and leaves may be equal. The search cannot tell them apart by their
// hashes, so it tells them apart by their places. Those of an earlier call lie below the index where the search of a later one
// begins. Those of calls that were under way together are given out once each: a place that was acknowledged to one is not
// taken for another, and of several calls whose outcome is open the longest is looked for first. Whole bodies are looked for,
// side by side as they were sent. Three things are asked of callers in return, and package record's entries, which name
// their writer, boot, number and payload, grant all of them: that no other writer appends an entry that equals one of ours;
// that equal entries have equal payloads; and that calls that are under way together do not share only a part of their
// leaves, for then one might be told the place of another's, and that other be appended again.
//
// # The protocol
//
// Paths are relative to the log's URL. An error is a status, a word in the header Tallystick-Verdict, and a line of text. An
// answer without the word is not ours: a proxy's, say, which knows nothing of what the log did.
//
//	POST   lease/<writer>        Tallystick-Epoch: the epoch that the lease is to have
//	                             200: three lines: the log's origin, the epoch, the number of durable entries
//	POST   append/<writer>       Tallystick-Epoch: the epoch of the client's lease
//	                             Content-Type: application/x-tallystick-leaves, Content-Length: as it is
//	                             uint32 leaves; of each: uint16 and uint32 lengths, entry, payload; all big-endian
//	                             200: one line: the index of the first leaf; the others follow it
//	GET    tail/<index>          200: the entries that are durable from that index on, as many as go into one answer, in
//	                             order, each behind its length as a uint16; nothing where there are none
//	GET    tail/<index>?wait=<n> the same; where there are none, it may take n milliseconds until there are, 20,000 at most
//	GET    payload/<sha-256>     200: the payload; the digest is 64 lower-case digits of hexadecimal
//	DELETE payload/<sha-256>     200: it is discarded, or was never there
//	GET    checkpoint, tile/…, checkpoints, checkpoints/<size>
//	                             as in package tiles, for everybody
//
//	400 refused         the request, or an entry in it, is not what the log takes; nothing was appended
//	401 unknown-client  no credential that the server knows
//	403 forbidden       not for this client
//	404 not-found       no such payload
//	408 cut-short       the body did not come, or not in time; nothing was appended; send it again
//	409 stale           not the newest lease of its writer; nothing was appended; take another
//	409 fenced          another client took the lease from this one; end
//	413 too-large       an entry, payload or body is over its limit; nothing was appended
//	500 failed          something could not be read; the server's log says what
//	503 busy            too much is on its way; nothing was appended; Retry-After
//	503 halted, quarantine, closed   the engine's errors of these names
//	507 full            the log's disk is nearly full; nothing was appended
//
// An epoch is 32 lower-case digits of hexadecimal: 8 bytes that the client drew when it was made, and a number that rises
// with each of its requests for a lease, so that one that was overtaken by a later one is known. A server knows, too, which
// clients a lease was taken from, as long as it lives; where two processes write as one writer and the server is started
// again, it is the one that asks last that goes on. An append is taken or refused whole. A body has at most MaxAppend leaves
// and MaxCall bytes of them.
//
// # Who trusts whom with what
//
// The server believes a client when it shows a bearer token or, in the TLS handshake, a key that the server was told of, and
// then lets it append as the writers that it was told of, what ServerConfig.Check lets pass, and read or discard payloads if
// it was told so. Every client sees the tail, what is durable and not yet published; nobody else does, for the log has not
// put its name to it. Whoever is not known is told nothing else, whatever there is; whoever is known, and asks for what is not
// his, likewise. What is public is for everybody. Tokens are kept as digests, compared in constant time, and stand in no log
// and no error.
//
// The client believes the server, which TLS identifies, in what it acknowledges and what it publishes: a log could as well
// drop what it acknowledged, in this process or in that. What holds against a log that lies is what holds always: checkpoints,
// witnesses, and auditors who hash everything again. Two things the client notices by itself, and ends: a log that is not the
// one it is to be, and one that has fewer entries than it acknowledged.
//
// Both ends bound what the other may cost them: bytes in memory, connections, and the time of every exchange.
package remote
