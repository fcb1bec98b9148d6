// Verifies a log of ours with the Go project's own implementation, golang.org/x/mod/sumdb: notes,
// tiles read from the public door, proofs. What is wrong is printed, and the exit code is 1.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What the test hands in, beside what the door serves.
type input struct {
	URL     string
	LogKey  string
	Witness struct {
		Name   string
		Public []byte
	}
	// Of another witness, played here: a name and a seed.
	Cosigner struct {
		Name string
		Seed []byte
	}
	// Entries as they are hashed, and our proofs of them in the newest checkpoint.
	Entries []struct {
		Index int64
		Leaf  []byte
		Proof []tlog.Hash
	}
	// Earlier checkpoints, and our proofs that the newest one goes on from them.
	Older []struct {
		Note  string
		Proof []tlog.Hash
	}
}

// A cosignature/v1 of c2sp.org/tlog-cosignature, verified and made.
type cosigner struct {
	name   string
	public ed25519.PublicKey
	secret ed25519.PrivateKey
}

func (c cosigner) Name() string { return c.name }

func (c cosigner) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(c.name+"\n\x04"), c.public...))
	return binary.BigEndian.Uint32(sum[:])
}

func message(when uint64, text []byte) []byte {
	return append([]byte(fmt.Sprintf("cosignature/v1\ntime %d\n", when)), text...)
}

func (c cosigner) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	when := binary.BigEndian.Uint64(signature)
	return ed25519.Verify(c.public, message(when, text), signature[8:])
}

func (c cosigner) Sign(text []byte) ([]byte, error) {
	when := make([]byte, 8)
	binary.BigEndian.PutUint64(when, 1700000000)
	return append(when, ed25519.Sign(c.secret, message(1700000000, text))...), nil
}

// The public door; x/mod writes the tile's height into the path, c2sp.org/tlog-tiles does not.
type door struct{ url string }

func (d door) Height() int                     { return 8 }
func (d door) SaveTiles([]tlog.Tile, [][]byte) {}

func (d door) ReadTiles(tiles []tlog.Tile) (contents [][]byte, err error) {
	for _, tile := range tiles {
		content, err := d.get(strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

func (d door) get(path string) ([]byte, error) {
	answer, err := http.Get(d.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", path, answer.Status)
	}
	return content, err
}

func parse(text string) (tree tlog.Tree, err error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 {
		return tree, errors.New("no checkpoint")
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

func must(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func mustNot(err error, what string) {
	if err == nil {
		log.Fatalf("%s was accepted", what)
	}
}

func equal(ours, theirs []tlog.Hash, what string) {
	if len(ours) != len(theirs) {
		log.Fatalf("%s: %d hashes, theirs has %d", what, len(ours), len(theirs))
	}
	for i := range ours {
		if ours[i] != theirs[i] {
			log.Fatalf("%s: hash %d differs", what, i)
		}
	}
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in), "input")
	logVerifier, err := note.NewVerifier(in.LogKey)
	must(err, "verifier key")
	witness := cosigner{name: in.Witness.Name, public: in.Witness.Public}
	trusted := note.VerifierList(logVerifier, witness)

	served := door{in.URL}
	signed, err := served.get("checkpoint")
	must(err, "checkpoint")
	opened, err := note.Open(signed, trusted)
	must(err, "checkpoint")
	if len(opened.Sigs) != 2 {
		log.Fatalf("checkpoint: verified %d signatures, not the log's and the witness's", len(opened.Sigs))
	}
	_, err = note.Open(bytes.Replace(signed, []byte("="), []byte("A"), 1), trusted)
	mustNot(err, "a changed checkpoint")
	tree, err := parse(opened.Text)
	must(err, "checkpoint")
	reader := tlog.TileHashReader(tree, served)
	root, err := tlog.TreeHash(tree.N, reader)
	must(err, "tiles")
	if root != tree.Hash {
		log.Fatal("tiles: they lead to another root")
	}

	for _, entry := range in.Entries {
		what := fmt.Sprintf("entry %d", entry.Index)
		proof, err := tlog.ProveRecord(tree.N, entry.Index, reader)
		must(err, what)
		equal(entry.Proof, proof, what)
		hash := tlog.RecordHash(entry.Leaf)
		must(tlog.CheckRecord(entry.Proof, tree.N, tree.Hash, entry.Index, hash), what)
		mustNot(tlog.CheckRecord(entry.Proof, tree.N, tree.Hash, entry.Index, tree.Hash), what+" changed")
	}
	for _, older := range in.Older {
		opened, err := note.Open([]byte(older.Note), note.VerifierList(logVerifier))
		must(err, "an older checkpoint")
		before, err := parse(opened.Text)
		must(err, "an older checkpoint")
		what := fmt.Sprintf("consistency with %d", before.N)
		proof, err := tlog.ProveTree(tree.N, before.N, reader)
		must(err, what)
		equal(older.Proof, proof, what)
		must(tlog.CheckTree(older.Proof, tree.N, tree.Hash, before.N, before.Hash), what)
		before.Hash[0] ^= 1
		mustNot(tlog.CheckTree(older.Proof, tree.N, tree.Hash, before.N, before.Hash), what+", changed,")
	}

	// The other way round: a checkpoint cosigned here, for ours to verify.
	secret := ed25519.NewKeyFromSeed(in.Cosigner.Seed)
	public := secret.Public().(ed25519.PublicKey)
	cosigned, err := note.Sign(opened, cosigner{in.Cosigner.Name, public, secret})
	must(err, "cosigning")
	must(json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"entries": len(in.Entries), "older": len(in.Older), "tree_size": tree.N,
		"cosigned": string(cosigned),
		"cosigner": in.Cosigner.Name + fmt.Sprintf("+%08x+", cosigner{in.Cosigner.Name, public, nil}.KeyHash()) +
			base64.StdEncoding.EncodeToString(append([]byte{4}, public...)),
	}), "output")
}
