// Verifies an evidence package of ours with the Go project's own implementation, golang.org/x/mod/sumdb,
// and with what docs/formats.md says: evidence PACKAGE KEY. What is wrong is printed, and the exit code is 1.
package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func read(path string) map[string][]byte {
	archive, err := zip.OpenReader(path)
	must(err, path)
	defer archive.Close()
	files := map[string][]byte{}
	for _, file := range archive.File {
		opened, err := file.Open()
		must(err, file.Name)
		files[file.Name], err = io.ReadAll(opened)
		must(err, file.Name)
	}
	return files
}

// A signed checkpoint.
func open(text []byte, key note.Verifier, what string) (tree tlog.Tree) {
	opened, err := note.Open(text, note.VerifierList(key))
	must(err, what)
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != key.Name() {
		log.Fatalf("%s: of another log", what)
	}
	tree.N, err = strconv.ParseInt(lines[1], 10, 64)
	must(err, what)
	tree.Hash, err = tlog.ParseHash(lines[2])
	must(err, what)
	return tree
}

// A number under a name, hashes, an empty line, a checkpoint: what c2sp.org/tlog-proof and
// c2sp.org/tlog-witness have in common.
func parse(text []byte, name, what string) (number int64, hashes []tlog.Hash, rest []byte) {
	head, rest, found := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || !strings.HasPrefix(lines[0], name+" ") {
		log.Fatalf("%s: no %s", what, name)
	}
	number, err := strconv.ParseInt(lines[0][len(name)+1:], 10, 64)
	must(err, what)
	for _, line := range lines[1:] {
		hash, err := base64.StdEncoding.DecodeString(line)
		must(err, what)
		if len(hash) != tlog.HashSize {
			log.Fatalf("%s: a hash of %d bytes", what, len(hash))
		}
		hashes = append(hashes, tlog.Hash(*(*[tlog.HashSize]byte)(hash)))
	}
	return number, hashes, rest
}

func main() {
	files := read(os.Args[1])
	key, err := note.NewVerifier(os.Args[2])
	must(err, "key")
	tree := open(files["checkpoint"], key, "checkpoint")
	entries, earlier := 0, 0
	for name, content := range files {
		stem := strings.TrimSuffix(strings.TrimSuffix(name, ".tlog-proof"), ".consistency")
		switch {
		case strings.HasSuffix(name, ".tlog-proof"):
			line, rest, _ := bytes.Cut(content, []byte("\n"))
			if string(line) != "c2sp.org/tlog-proof@v1" {
				log.Fatalf("%s: no tlog-proof", name)
			}
			index, proof, checkpoint := parse(rest, "index", name)
			if open(checkpoint, key, name) != tree || stem != fmt.Sprintf("entries/%020d", index) {
				log.Fatalf("%s: of another tree or entry", name)
			}
			digest := sha256.Sum256(files[stem+".events"])
			leaf := append(append([]byte{}, files[stem+".header"]...), digest[:]...)
			must(tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(leaf)), name)
			entries++
		case strings.HasSuffix(name, ".consistency"):
			size, proof, checkpoint := parse(content, "old", name)
			before := open(files[stem+".checkpoint"], key, name)
			if open(checkpoint, key, name) != tree || before.N != size {
				log.Fatalf("%s: of another tree", name)
			}
			must(tlog.CheckTree(proof, tree.N, tree.Hash, before.N, before.Hash), name)
			earlier++
		}
	}
	fmt.Println(entries, earlier)
}
