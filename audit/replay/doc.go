// Package replay makes what happened in a recorded session happen again, in three ways that are kept apart:
//
//   - a [Player] plays it back for people: what was asked, who was waited for, and the answer as it came, at its own times;
//   - a [Mock] serves its answer to a client, in a model's place, for a rehearsal without a model;
//   - [Again] sends its request to a sandbox, and [Compare] holds the two answers against each other.
//
// None of them checks what it plays: that is for tally-verify. None calls a tool. Recorded content is hostile: nothing of it reaches a
// terminal but characters that can be seen.
package replay
