package encryption

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

func parseKMS(_ *apiserverv1.KMSConfiguration, at *field.Path) ([]*key, field.ErrorList) {
	return nil, field.ErrorList{field.Forbidden(at, "plugins are not supported")}
}
