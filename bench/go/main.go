// Times github.com/hf/nitrite on one attestation document, single-threaded: signature, path and validity at the document's own time. Prints JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strconv"
	"time"

	"github.com/hf/nitrite"
)

func main() {
	runtime.GOMAXPROCS(1)
	document, err := os.ReadFile(os.Args[1])
	check(err)
	milliseconds, err := strconv.ParseInt(os.Args[2], 10, 64)
	check(err)
	rounds, err := strconv.Atoi(os.Args[3])
	check(err)
	at := time.UnixMilli(milliseconds)
	var seconds []float64
	for round := 0; round < rounds; round++ {
		start := time.Now()
		for count := 0; count < 20; count++ {
			result, err := nitrite.Verify(document, nitrite.VerifyOptions{CurrentTime: at})
			check(err)
			if !result.SignatureOK {
				check(fmt.Errorf("the signature was not checked"))
			}
		}
		seconds = append(seconds, time.Since(start).Seconds()/20)
	}
	sort.Float64s(seconds)
	check(json.NewEncoder(os.Stdout).Encode(map[string]float64{"median": seconds[len(seconds)/2], "least": seconds[0]}))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
