package image

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Service is a Store as the CRI's image service. Its errors are gRPC statuses.
type Service struct{ store *Store }

var _ cri.ImageManagerService = (*Service)(nil)

// NewService returns the service of a store, which stays the caller's.
func NewService(s *Store) *Service { return &Service{s} }

// Close does nothing: the store is the caller's.
func (v *Service) Close(context.Context) error { return nil }

func (v *Service) ListImages(_ context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if ref := filter.GetImage().GetImage(); ref != "" {
		img, ok := v.store.Get(ref)
		if !ok {
			return nil, nil
		}
		return []*runtimeapi.Image{message(img)}, nil
	}
	var out []*runtimeapi.Image
	for _, img := range v.store.List() {
		out = append(out, message(img))
	}
	return out, nil
}

// ImageStatus has no image in its answer where there is none.
func (v *Service) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	img, ok := v.store.Get(spec.GetImage())
	if !ok {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	r := &runtimeapi.ImageStatusResponse{Image: message(img)}
	if verbose {
		info, err := json.Marshal(map[string]any{"imageSpec": map[string]any{"config": img.Config, "created": img.Created, "layers": img.Layers}})
		if err != nil {
			return nil, err
		}
		r.Info = map[string]string{"info": string(info)}
	}
	return r, nil
}

// message is an image as the CRI describes it. The image's user is a number or
// a name, without its group.
func message(img Image) *runtimeapi.Image {
	m := &runtimeapi.Image{Id: img.ID, RepoTags: img.Names, RepoDigests: img.Digests, Size: uint64(img.Size), Pinned: img.Pinned,
		Spec: &runtimeapi.ImageSpec{Image: img.ID}}
	user, _, _ := strings.Cut(img.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		m.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		m.Username = user
	}
	return m
}

// PullImage returns the image's ID.
func (v *Service) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	var a *Auth
	if auth != nil {
		a = &Auth{Username: auth.Username, Password: auth.Password, Auth: auth.Auth, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken}
	}
	img, err := v.store.Pull(ctx, spec.GetImage(), a, nil)
	if err != nil {
		return "", rpcError(err)
	}
	return img.ID, nil
}

// RemoveImage removes all names of an image; one that is gone is no error.
func (v *Service) RemoveImage(_ context.Context, spec *runtimeapi.ImageSpec) error {
	img, ok := v.store.Get(spec.GetImage())
	if !ok {
		return nil
	}
	if err := v.store.Remove(img.ID); err != nil && !errors.Is(err, ErrNotFound) {
		return rpcError(err)
	}
	return nil
}

// ImageFsInfo tells what images and containers' writable layers take of the
// file system.
func (v *Service) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	s := v.store
	writable, inodes, err := usage(s.path("containers"))
	if err != nil {
		return nil, rpcError(err)
	}
	fs := func(sub string, bytes, inodes int64) *runtimeapi.FilesystemUsage {
		return &runtimeapi.FilesystemUsage{Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.path(sub)},
			UsedBytes: &runtimeapi.UInt64Value{Value: uint64(bytes)}, InodesUsed: &runtimeapi.UInt64Value{Value: uint64(inodes)}}
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{fs("l", s.layerBytes(), 0)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{fs("containers", writable, inodes)},
	}, nil
}

// rpcError gives an error the code that callers of the CRI look at.
func rpcError(err error) error {
	code := codes.Unknown
	for _, c := range []struct {
		is   error
		code codes.Code
	}{
		{ErrNotFound, codes.NotFound}, {ErrUnauthorized, codes.PermissionDenied}, {ErrInUse, codes.FailedPrecondition},
		{ErrName, codes.InvalidArgument}, {ErrNoSpace, codes.ResourceExhausted}, {unix.ENOSPC, codes.ResourceExhausted},
		{context.Canceled, codes.Canceled}, {context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, c.is) {
			code = c.code
			break
		}
	}
	return status.Error(code, err.Error())
}
