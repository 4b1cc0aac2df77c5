package console

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// A series is one row of numbers in a chart. A negative number is none.
type series struct {
	Name   string
	Class  string // its colour, in the style sheet
	Values []float64
}

// A chart is drawn by the template "chart": shapes for those who see it, and a table of the same numbers for all others.
type chart struct {
	ID, Title string
	Says      string // in a sentence
	Names     []series
	Rects     []rect
	Lines     []line
	Grid      []gridLine
	Ticks     []tick
	Rows      []row
}

type rect struct {
	X, Y, W, H string
	Class      string
	Title      string
}

type line struct{ Points, Class string }

type gridLine struct{ Y, TextY, Text string }

type tick struct {
	X, Text, Anchor string
	Between         bool // left out where there is little room
}

type row struct {
	At    time.Time
	Cells []string
}

// The drawing's measures, in its own units.
const (
	chartLeft, chartRight, chartTop, chartBottom = 52.0, 632.0, 10.0, 150.0
)

func at(f float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") }

// frame draws what all charts have: grid, times, table.
func frame(id, title string, starts []time.Time, span time.Duration, text func(float64) string, highest float64, all []series) chart {
	c := chart{ID: id, Title: title, Names: all}
	top := above(highest)
	for i := range 4 {
		y := chartBottom - float64(i)/3*(chartBottom-chartTop)
		c.Grid = append(c.Grid, gridLine{at(y), at(y + 4), text(top * float64(i) / 3)})
	}
	layout := "15:04"
	switch whole := span * time.Duration(len(starts)); {
	case whole > 25*time.Hour:
		layout = "2 Jan"
	case whole < 8*time.Minute:
		layout = "15:04:05"
	}
	for i := range 5 {
		k := min(i*len(starts)/4, len(starts))
		t := starts[0].Add(time.Duration(k) * span)
		anchor := "middle"
		if i == 4 {
			anchor = "end"
		}
		c.Ticks = append(c.Ticks, tick{at(chartLeft + float64(i)/4*(chartRight-chartLeft)), t.UTC().Format(layout), anchor, i%2 == 1})
	}
	for i, s := range starts {
		r := row{At: s}
		some := false
		for _, one := range all {
			cell := "–"
			if one.Values[i] >= 0 {
				cell = text(one.Values[i])
			}
			some = some || one.Values[i] > 0
			r.Cells = append(r.Cells, cell)
		}
		if some {
			c.Rows = append(c.Rows, r)
		}
	}
	return c
}

// above returns a round number that is not below f and can be divided by three in whole steps, where f is one of whole things.
func above(f float64) float64 {
	if f <= 0 {
		return 3
	}
	if f <= 3 && f == math.Trunc(f) {
		return 3
	}
	step := math.Pow(10, math.Floor(math.Log10(f)))
	for _, m := range []float64{1.2, 1.5, 1.8, 2.4, 3, 4.5, 6, 7.5, 9, 12} {
		if top := step * m; top >= f {
			return top
		}
	}
	return f
}

// bars stacks the series on each other.
func bars(id, title string, starts []time.Time, span time.Duration, text func(float64) string, all ...series) chart {
	highest, most := 0.0, 0
	sums := make([]float64, len(all))
	for i := range starts {
		sum := 0.0
		for k, s := range all {
			sum += max(s.Values[i], 0)
			sums[k] += max(s.Values[i], 0)
		}
		if sum > highest {
			highest, most = sum, i
		}
	}
	c := frame(id, title, starts, span, text, highest, all)
	top, width := above(highest), (chartRight-chartLeft)/float64(len(starts))
	for i, t := range starts {
		y := chartBottom
		for _, s := range all {
			v := max(s.Values[i], 0)
			if v == 0 {
				continue
			}
			h := v / top * (chartBottom - chartTop)
			y -= h
			c.Rects = append(c.Rects, rect{at(chartLeft + float64(i)*width + width*0.1), at(y), at(width * 0.8), at(max(h, 0.5)), s.Class,
				fmt.Sprintf("%s: %s %s", t.UTC().Format("2006-01-02 15:04"), text(v), s.Name)})
		}
	}
	var parts []string
	for k, s := range all {
		parts = append(parts, text(sums[k])+" "+s.Name)
	}
	if c.Says = "Nothing in this time."; highest > 0 {
		c.Says = fmt.Sprintf("%s; most, %s, in the %s from %s.", strings.Join(parts, ", "), text(highest), spanText(span), starts[most].UTC().Format("2006-01-02 15:04 MST"))
	}
	return c
}

// lines draws each series as a line, with a point where it has no neighbour.
func lines(id, title string, starts []time.Time, span time.Duration, text func(float64) string, all ...series) chart {
	highest, most, who := 0.0, 0, 0
	for k, s := range all {
		for i, v := range s.Values {
			if v > highest {
				highest, most, who = v, i, k
			}
		}
	}
	c := frame(id, title, starts, span, text, highest, all)
	top, width := above(highest), (chartRight-chartLeft)/float64(len(starts))
	for _, s := range all {
		var points []string
		flush := func() {
			if len(points) > 1 {
				c.Lines = append(c.Lines, line{strings.Join(points, " "), s.Class})
			}
			points = nil
		}
		for i, v := range s.Values {
			if v < 0 {
				flush()
				continue
			}
			x, y := chartLeft+(float64(i)+0.5)*width, chartBottom-v/top*(chartBottom-chartTop)
			points = append(points, at(x)+","+at(y))
			c.Rects = append(c.Rects, rect{at(x - 2), at(y - 2), "4", "4", s.Class, fmt.Sprintf("%s: %s, %s", starts[i].UTC().Format("2006-01-02 15:04"), text(v), s.Name)})
		}
		flush()
	}
	if c.Says = "Nothing in this time."; highest > 0 {
		c.Says = fmt.Sprintf("At most %s (%s), in the %s from %s.", text(highest), all[who].Name, spanText(span), starts[most].UTC().Format("2006-01-02 15:04 MST"))
	}
	return c
}

func spanText(d time.Duration) string {
	switch {
	case d%time.Hour == 0 && d > time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d == time.Hour:
		return "hour"
	case d == time.Minute:
		return "minute"
	case d%time.Minute == 0:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return long(d)
}
