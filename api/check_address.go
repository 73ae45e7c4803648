package api

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateEndpointAddress judges the address of a Service's endpoint: of the
// family wanted, and none that means "here" or "this link".
func validateEndpointAddress(value string, v6 bool, at *field.Path) field.ErrorList {
	addr, err := netip.ParseAddr(value)
	switch {
	case err != nil || addr.Zone() != "":
		return field.ErrorList{field.Invalid(at, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")}
	case addr.Is4() && v6:
		return field.ErrorList{field.Invalid(at, value, "must be an IPv6 address")}
	case !addr.Is4() && !v6:
		return field.ErrorList{field.Invalid(at, value, "must be an IPv4 address")}
	}
	return validateReachable(addr, value, at)
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
