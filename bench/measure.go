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

// row is a line of the table: the results of one measurement in each round.
type row struct {
	name, unit string
	ours, peer []float64
}

// compare measures both registries in each round. The order changes from round to round.
func compare(ctx context.Context, o options, ours, peer *registry) ([]row, error) {
	rows := []row{
		{name: "tiny image pushes", unit: "/s"}, {name: "manifest GETs by tag", unit: "/s"},
		{name: fmt.Sprintf("%d MB blob up", o.blob), unit: "MB/s"}, {name: fmt.Sprintf("%d MB blob down", o.blob), unit: "MB/s"},
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
			binary.LittleEndian.PutUint64(content, uint64(round)<<1|place) // neither registry, nor the upstream of ours, has this blob yet
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

// pulls is the number of pulls of the big blob per round. A single one is too short to measure.
const pulls = 5

// measure runs one round on one registry. It returns pushes/s, GETs/s, MB/s up and MB/s down.
func measure(ctx context.Context, o options, r *registry, round int, blob []byte) ([4]float64, error) {
	var got [4]float64
	s, err := r.open(ctx, o.clients, fmt.Sprintf("%s/round-%d", r.name, round))
	if err != nil {
		return got, err
	}
	defer s.close()
	took, err := s.pushMany(ctx, o.clients, o.pushes)
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

// pushMany pushes a number of images by concurrent clients, and returns the duration.
func (s *session) pushMany(ctx context.Context, clients, images int) (time.Duration, error) {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range clients {
		group.Go(func() error {
			for {
				n := next.Add(1) - 1
				if n >= int64(images) {
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

// readMany reads the pushed manifests in turn by concurrent clients for o.reading. It returns the number of reads and
// the duration.
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

// depth measures pushes to one repository around push number o.deep, and the first pushes to another repository. The
// two alternate, so that other load on the machine affects both.
func depth(ctx context.Context, o options, r *registry) (first, deep []time.Duration, err error) {
	full, err := r.open(ctx, o.clients, "bench/deep")
	if err != nil {
		return nil, nil, err
	}
	defer full.close()
	from := max(o.deep-o.window/2, 0)
	if _, err := full.pushMany(ctx, o.clients, from); err != nil {
		return nil, nil, err
	}
	// The token can have expired.
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

// median returns the median of the values, or the upper one of two medians.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// printTable prints the results and the ratio of the medians.
func printTable(out io.Writer, rows []row) error {
	table := tabwriter.NewWriter(out, 0, 8, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tcountersign\tdistribution v3.1.2\tratio\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%.2f\t\n", r.name, spread(r.ours, r.unit), spread(r.peer, r.unit), median(r.ours)/median(r.peer))
	}
	return table.Flush()
}

// spread formats the median, the minimum and the maximum of values.
func spread(values []float64, unit string) string {
	return fmt.Sprintf("%.0f %s (%.0f..%.0f)", median(values), unit, slices.Min(values), slices.Max(values))
}
