// Package acceptance holds adit to what it promises, from outside: its tests build the binary and run
// it as processes in network namespaces, behind NATs and over emulated links, with Debian's own ssh.
//
// They need root on Linux and skip elsewhere. By default they take their short forms; ADIT_LONG=1 in
// the environment asks for the long ones: twenty rounds of each pair of NATs, a gigabyte of bulk data,
// a code that nobody uses for ten minutes. They take longer than go test allows without a word:
//
//	ADIT_LONG=1 go test -v -timeout 40m ./internal/acceptance
package acceptance
