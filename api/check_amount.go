package api

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateShare judges a number of pods or a share of them, at most 100%;
// unset passes.
func validateShare(n *intstr.IntOrString, at *field.Path) field.ErrorList {
	return append(validateNumberOrPercent(n, at), validateAtMostAll(n, at)...)
}

// validateNumberOrPercent takes numbers from 0 and percentages of any size.
func validateNumberOrPercent(n *intstr.IntOrString, at *field.Path) field.ErrorList {
	switch {
	case n == nil:
		return nil
	case n.Type == intstr.String:
		return invalidEach(*n, at, validation.IsValidPercent(n.StrVal))
	case n.Type == intstr.Int:
		return nonNegative(n.IntVal, at)
	}
	return field.ErrorList{field.Invalid(at, *n, "must be an integer or percentage (e.g '5%')")}
}

// validateAtMostAll refuses more than 100%.
func validateAtMostAll(n *intstr.IntOrString, at *field.Path) field.ErrorList {
	if p, ok := percentOf(n); ok && p > 100 {
		return field.ErrorList{field.Invalid(at, *n, "must not be greater than 100%")}
	}
	return nil
}

// percentOf reads a percentage; ok is false for a plain number or a bad text.
func percentOf(n *intstr.IntOrString) (p int, ok bool) {
	if n == nil || n.Type != intstr.String || len(validation.IsValidPercent(n.StrVal)) > 0 {
		return 0, false
	}
	p, err := strconv.Atoi(strings.TrimSuffix(n.StrVal, "%"))
	return p, err == nil
}

// isZeroAmount tells an amount of nothing; unset counts as such.
func isZeroAmount(n *intstr.IntOrString) bool {
	if p, ok := percentOf(n); ok {
		return p == 0
	}
	return n == nil || n.Type == intstr.Int && n.IntVal == 0
}
