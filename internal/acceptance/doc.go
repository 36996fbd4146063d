// Package acceptance holds adit to what it promises, from outside: its tests build the binary and run
// it as processes in network namespaces, behind NATs and over emulated links, with Debian's own ssh.
//
// They need root on Linux and skip elsewhere. The short tier has one of each kind: a pasted
// line, a code, forwards, a pipe, a pair of NATs, a network that changes. scripts/test --long runs each pair, each fault
// and each forward. scripts/test --full takes an hour: twenty rounds of each pair of NATs, a gigabyte of bulk data, a
// code that nobody uses for ten minutes:
//
//	scripts/test --full -v ./internal/acceptance
package acceptance
