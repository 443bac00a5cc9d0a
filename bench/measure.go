package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

// row is one line of the table: what each registry did in each round, more being better.
type row struct {
	what, unit string
	ours, peer []float64
}

// compare measures both registries, round by round; who goes first changes with the round.
func compare(ctx context.Context, o options, ours, peer *registry) ([]row, error) {
	rows := []row{
		{what: "tiny image pushes", unit: "/s"}, {what: "manifest GETs by tag", unit: "/s"},
		{what: fmt.Sprintf("%d MB blob up", o.blob), unit: "MB/s"}, {what: fmt.Sprintf("%d MB blob down", o.blob), unit: "MB/s"},
	}
	content := make([]byte, o.blob*1_000_000)
	fill := rand.NewChaCha8([32]byte{1})
	if _, err := fill.Read(content); err != nil {
		return nil, err
	}
	for round := range o.rounds {
		order := []*registry{ours, peer}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, r := range order {
			place := uint64(0)
			if r == ours {
				place = 1
			}
			binary.LittleEndian.PutUint64(content, uint64(round)<<1|place) // a blob that is not there yet, nor behind ours
			got, err := measure(ctx, o, r, round, content)
			if err != nil {
				return nil, err
			}
			for i, value := range got {
				if r == ours {
					rows[i].ours = append(rows[i].ours, value)
				} else {
					rows[i].peer = append(rows[i].peer, value)
				}
			}
		}
	}
	return rows, nil
}

// pulls is how often a round pulls the big blob: one pull is over too soon to tell.
const pulls = 5

// measure is one round on one registry: pushes/s, GETs/s, MB/s up, MB/s down.
func measure(ctx context.Context, o options, r *registry, round int, blob []byte) ([4]float64, error) {
	var got [4]float64
	s, err := r.open(ctx, o.clients, fmt.Sprintf("%s/round-%d", r.name, round))
	if err != nil {
		return got, err
	}
	defer s.close()
	took, err := s.pushMany(ctx, o.clients, 0, o.pushes)
	if err != nil {
		return got, err
	}
	got[0] = float64(o.pushes) / took.Seconds()

	if r.settled != nil {
		if err := r.settled(ctx, s.repository, o.pushes); err != nil {
			return got, err
		}
	}
	reads, took, err := s.anonymous().readMany(ctx, o)
	if err != nil {
		return got, err
	}
	got[1] = float64(reads) / took.Seconds()

	digest := digestOf(blob)
	began := time.Now()
	if err := s.pushBig(ctx, blob, digest); err != nil {
		return got, err
	}
	got[2] = float64(o.blob) / time.Since(began).Seconds()
	if err := s.pushBigImage(ctx, digest, len(blob)); err != nil {
		return got, err
	}
	began = time.Now()
	for range pulls {
		if err := s.anonymous().pullBig(ctx, digest, len(blob)); err != nil {
			return got, err
		}
	}
	got[3] = pulls * float64(o.blob) / time.Since(began).Seconds()
	return got, nil
}

// pushMany pushes the images number first up to, not including, end with several clients at once.
func (s *session) pushMany(ctx context.Context, clients, first, end int) (time.Duration, error) {
	var next atomic.Int64
	next.Store(int64(first))
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range clients {
		group.Go(func() error {
			for {
				n := next.Add(1) - 1
				if n >= int64(end) {
					return nil
				}
				if err := s.pushTiny(ctx, fmt.Sprintf("n%d", n)); err != nil {
					return err
				}
			}
		})
	}
	err := group.Wait()
	return time.Since(began), err
}

// readMany reads the pushed manifests, one after the other, with several clients for the time that is asked for.
func (s *session) readMany(ctx context.Context, o options) (int64, time.Duration, error) {
	var reads atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for client := range o.clients {
		group.Go(func() error {
			for n := client; time.Since(began) < o.reading; n++ {
				if err := s.getManifest(ctx, fmt.Sprintf("n%d", n%o.pushes)); err != nil {
					return err
				}
				reads.Add(1)
			}
			return nil
		})
	}
	err := group.Wait()
	return reads.Load(), time.Since(began), err
}

// depth pushes to one repository until push number o.deep is near, and then measures the pushes around it one by one, each followed by
// a push to a fresh repository: so what else the machine does falls on both.
func depth(ctx context.Context, o options, r *registry) (first, deep []time.Duration, err error) {
	full, err := r.open(ctx, o.clients, "bench/deep")
	if err != nil {
		return nil, nil, err
	}
	defer full.close()
	from := max(o.deep-o.window/2, 0)
	if _, err := full.pushMany(ctx, o.clients, 0, from); err != nil {
		return nil, nil, err
	}
	// The filling may have outlived the token.
	if full, err = r.open(ctx, o.clients, "bench/deep"); err != nil {
		return nil, nil, err
	}
	fresh, err := r.open(ctx, o.clients, "bench/fresh")
	if err != nil {
		return nil, nil, err
	}
	defer fresh.close()
	for n := range o.window {
		for _, one := range []struct {
			s    *session
			n    int
			took *[]time.Duration
		}{{full, from + n, &deep}, {fresh, n, &first}} {
			began := time.Now()
			if err := one.s.pushTiny(ctx, fmt.Sprintf("n%d", one.n)); err != nil {
				return nil, nil, err
			}
			*one.took = append(*one.took, time.Since(began))
		}
	}
	return first, deep, nil
}

// median of the values; of an even number of them, the upper one of the two in the middle.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// printTable prints what was measured, and how many times the peer's median ours is.
func printTable(out io.Writer, rows []row) error {
	table := tabwriter.NewWriter(out, 0, 8, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tcountersign\tdistribution v3.1.2\tratio\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%.2f\t\n", r.what, spread(r.ours, r.unit), spread(r.peer, r.unit), median(r.ours)/median(r.peer))
	}
	return table.Flush()
}

func spread(values []float64, unit string) string {
	return fmt.Sprintf("%.0f %s (%.0f..%.0f)", median(values), unit, slices.Min(values), slices.Max(values))
}
