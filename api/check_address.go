package api

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateEndpointAddress judges the address of a Service's endpoint, the given
// one of a list: of the family wanted, and none that means "here" or "this link".
func validateEndpointAddress(value string, v6 bool, list *field.Path, i int) field.ErrorList {
	at := list.Index(i)
	if errs := validation.IsValidIP(at, value); len(errs) > 0 {
		return errs
	}
	addr, err := netip.ParseAddr(value)
	if err != nil { // cannot be: it is valid
		return field.ErrorList{field.InternalError(at, err)}
	}
	errs := validateReachable(addr, value, at)
	switch { // without an index: so it is published
	case addr.Is4() && v6:
		errs = append(errs, field.Invalid(list, value, "must be an IPv6 address"))
	case !addr.Is4() && !v6:
		errs = append(errs, field.Invalid(list, value, "must be an IPv4 address"))
	}
	return errs
}

// validateReachable refuses addresses that no other machine can be reached at.
func validateReachable(addr netip.Addr, value string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(bad bool, message string) {
		if bad {
			errs = append(errs, field.Invalid(at, value, message))
		}
	}
	refuse(addr.IsUnspecified(), "may not be unspecified (0.0.0.0 or ::)")
	refuse(addr.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	refuse(addr.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	refuse(addr.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	return errs
}
