package commands

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// A progress is a line on standard error that says how far a command has come.
// There is none unless standard error is a terminal, and none in the first
// half second.
type progress struct {
	once  sync.Once
	quit  chan struct{}
	ended sync.WaitGroup
}

const (
	progressAfter = 500 * time.Millisecond
	progressEvery = 200 * time.Millisecond
)

// startProgress shows text until stop. text is called on another goroutine.
func startProgress(o *output, text func() string) *progress {
	p := &progress{quit: make(chan struct{})}
	f, ok := o.stderr.(*os.File)
	if !ok || o.json || !term.IsTerminal(int(f.Fd())) {
		return p
	}
	p.ended.Go(func() {
		begin := time.Now()
		next := time.NewTimer(progressAfter)
		defer next.Stop()
		shown := false
		for {
			select {
			case <-p.quit:
				if shown {
					fmt.Fprint(f, "\r\x1b[K")
				}
				return
			case <-next.C:
				shown = true
				fmt.Fprintf(f, "\r%s, %d s\x1b[K", text(), int(time.Since(begin).Seconds()))
				next.Reset(progressEvery)
			}
		}
	})
	return p
}

// stop takes the line away.
func (p *progress) stop() {
	p.once.Do(func() { close(p.quit) })
	p.ended.Wait()
}
