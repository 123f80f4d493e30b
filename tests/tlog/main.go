// A second opinion on an exported ledger, by code that nobody here wrote: Go's golang.org/x/mod/sumdb/tlog for the tree and its tiles, transparency-dev/formats for the signed checkpoints.
//
// Usage: tlog FOLDER VERIFIER_KEY. Every entry is proven to be in the tree of the last checkpoint, and every checkpoint to be continued by it. Prints what it verified as JSON.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	folder, key := os.Args[1], os.Args[2]
	verifier, err := fnote.NewVerifier(key)
	check(err)
	last := open(filepath.Join(folder, "checkpoint"), verifier)
	tree := tlog.Tree{N: int64(last.Size), Hash: tlog.Hash(last.Hash)}
	hashes := tlog.TileHashReader(tree, &tiles{folder})
	entries := 0
	for number, record := range records(folder, tree.N) {
		proof, err := tlog.ProveRecord(tree.N, int64(number), hashes)
		check(err)
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, int64(number), tlog.RecordHash(record)))
		entries++
	}
	names, err := filepath.Glob(filepath.Join(folder, "checkpoints", "*"))
	check(err)
	sort.Strings(names)
	for _, name := range names {
		old := open(name, verifier)
		proof, err := tlog.ProveTree(tree.N, int64(old.Size), hashes)
		check(err)
		check(tlog.CheckTree(proof, tree.N, tree.Hash, int64(old.Size), tlog.Hash(old.Hash)))
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{"entries": entries, "checkpoints": len(names), "origin": last.Origin, "root": fmt.Sprintf("%x", last.Hash)}))
}

func open(path string, verifier note.Verifier) log.Checkpoint {
	data, err := os.ReadFile(path)
	check(err)
	checkpoint, _, _, err := log.ParseCheckpoint(data, verifier.Name(), verifier)
	check(err)
	return *checkpoint
}

func records(folder string, size int64) [][]byte {
	var found [][]byte
	for first := int64(0); first < size; first += 1 << height {
		width := min(size-first, 1<<height)
		data, err := os.ReadFile(filepath.Join(folder, path("entries", first>>height, int(width))))
		check(err)
		reader := bytes.NewReader(data)
		for reader.Len() > 0 {
			var length uint16
			check(binary.Read(reader, binary.BigEndian, &length))
			record := make([]byte, length)
			_, err := reader.Read(record)
			check(err)
			found = append(found, record)
		}
	}
	return found
}

// path is C2SP tlog-tiles' form, which x/mod's own lacks: it names the height too.
func path(kind string, number int64, width int) string {
	name := fmt.Sprintf("%03d", number%1000)
	for number >= 1000 {
		number /= 1000
		name = fmt.Sprintf("x%03d/%s", number%1000, name)
	}
	if width < 1<<height {
		name += fmt.Sprintf(".p/%d", width)
	}
	return filepath.Join("tile", kind, name)
}

type tiles struct{ folder string }

func (t *tiles) Height() int { return height }

func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (t *tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range wanted {
		data, err := os.ReadFile(filepath.Join(t.folder, path(fmt.Sprint(tile.L), tile.N, tile.W)))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
