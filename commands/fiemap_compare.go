package commands

import (
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"
)

// The kinds of difference between two maps of a file.
const (
	diffBoundary = "boundary"
	diffState    = "state"
	diffPhysical = "physical"
	diffHole     = "hole"
)

// A difference is a range of a file in which two maps do not say the same. A
// side that has a hole there is nil.
type difference struct {
	what          string
	logical       uint64
	length        uint64
	image, kernel *extent
}

// compareFiemap asks the image and the kernel, and prints where they differ.
func compareFiemap(c *cli.Context, s *images, arg string, q fiemapQuery) error {
	var f *file
	var err error
	kernel, kerr := kernelFiemap(c.Context, arg, q)
	if kerr != nil {
		return kerr
	}
	if s.opts.path != "" {
		f, err = s.liveFileIn(arg)
	} else {
		f, err = s.liveFile(arg, true)
	}
	if err != nil {
		return err
	}
	image, err := imageFiemap(f, q)
	if err != nil {
		return err
	}
	diffs := compareExtents(image.extents, kernel.extents)
	o := out(c)
	switch {
	case o.json:
		o.kName("path", arg)
		o.kUint("ino", uint64(f.Ino()))
		o.kName("image", f.im.path)
		o.kBool("same", len(diffs) == 0)
		o.kArr("differences")
		for _, d := range diffs {
			d.json(o)
		}
		o.end()
		for _, side := range []struct {
			key  string
			list []extent
		}{{"image_extents", image.extents}, {"kernel_extents", kernel.extents}} {
			o.kArr(side.key)
			for _, x := range side.list {
				o.extent(x)
				o.end()
			}
			o.end()
		}
	case o.plain:
		for _, d := range diffs {
			o.line(fmt.Sprintf("%s\t%d\t%d\t%s\t%s", d.what, d.logical, d.length, sideText(d.image, 1), sideText(d.kernel, 1)))
		}
	default:
		printCompared(o, image, kernel, diffs)
	}
	if err := o.fail(); err != nil {
		return err
	}
	if len(diffs) > 0 {
		return exit(exitFindings, nil)
	}
	return nil
}

// compareExtents returns the ranges in which a and b, both sorted and joined,
// differ. Flags count as far as they are about the data: last is a matter of
// where the question ended.
func compareExtents(a, b []extent) []difference {
	var out []difference
	a, b = slices.Clone(a), slices.Clone(b)
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].logical+a[0].length <= b[0].logical:
			x := a[0]
			out = append(out, difference{diffHole, x.logical, x.length, &x, nil})
			a = a[1:]
			continue
		case len(a) == 0 || b[0].logical+b[0].length <= a[0].logical:
			x := b[0]
			out = append(out, difference{diffHole, x.logical, x.length, nil, &x})
			b = b[1:]
			continue
		}
		x, y := a[0], b[0]
		first := max(x.logical, y.logical)
		end := min(x.logical+x.length, y.logical+y.length)
		what := ""
		switch {
		case (x.flags^y.flags)&^fiemapLast != 0:
			what = diffState
		case !x.nowhere && x.physical+(first-x.logical) != y.physical+(first-y.logical):
			what = diffPhysical
		case x.logical != y.logical || x.length != y.length:
			what = diffBoundary
		}
		if what != "" {
			out = append(out, difference{what, first, end - first, &x, &y})
		}
		a, b = after(a, end), after(b, end)
	}
	return out
}

// after drops what of list, which it changes, lies before end. What is left of an extent that was cut keeps
// its place on the device.
func after(list []extent, end uint64) []extent {
	x := list[0]
	if x.logical+x.length <= end {
		return list[1:]
	}
	cut := end - x.logical
	list[0].logical, list[0].physical, list[0].length = end, x.physical+cut, x.length-cut
	return list
}

// sideText is what one side says, counted in units of unit bytes.
func sideText(x *extent, unit uint64) string {
	switch {
	case x == nil:
		return stateHole
	case x.nowhere:
		return fmt.Sprintf("%d+%d:-:%s", x.logical/unit, x.length/unit, x.state)
	}
	return fmt.Sprintf("%d+%d:%d:%s", x.logical/unit, x.length/unit, x.physical/unit, x.state)
}

// printCompared prints both answers side by side, extent by extent, with the
// differences marked.
func printCompared(o *output, image, kernel fiemapAnswer, diffs []difference) {
	t := newTable(o, column{name: "image: logical+length:physical:state", width: 40, left: true},
		column{name: "kernel", width: 40, left: true}, column{name: "difference", left: true})
	a, b := image.extents, kernel.extents
	for len(a) > 0 || len(b) > 0 {
		var x, y *extent
		if len(b) == 0 || len(a) > 0 && a[0].logical <= b[0].logical {
			x = &a[0]
		}
		if len(a) == 0 || len(b) > 0 && b[0].logical <= a[0].logical {
			y = &b[0]
		}
		var first, end uint64
		cell := func(e *extent, list []extent) []extent {
			if e == nil {
				t.str("")
				return list
			}
			first, end = e.logical, max(end, e.logical+e.length)
			t.str(sideText(e, 1))
			return list[1:]
		}
		a = cell(x, a)
		b = cell(y, b)
		marks := ""
		for _, d := range diffs {
			if d.logical < end && d.logical+d.length > first {
				marks = d.what
				break
			}
		}
		t.str(o.styles.bad(marks))
		t.end()
	}
	t.close()
}

func (d *difference) json(o *output) {
	o.obj()
	o.kStr("what", d.what)
	o.kUint("logical", d.logical)
	o.kUint("length", d.length)
	for _, side := range []struct {
		key string
		x   *extent
	}{{"image", d.image}, {"kernel", d.kernel}} {
		if side.x == nil {
			o.kNull(side.key)
			continue
		}
		o.key(side.key)
		o.extent(*side.x)
		o.end()
	}
	o.end()
}
