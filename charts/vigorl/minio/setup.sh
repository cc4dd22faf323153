# Makes the bucket, the user of the services and the policy that ties the two. Safe to run again.
set -eu
until mc --quiet alias set store "$ENDPOINT" "$ROOT_USER" "$ROOT_PASSWORD"; do
    echo "waiting for $ENDPOINT"
    sleep 2
done
mc mb --ignore-existing "store/$BUCKET"
mc admin user add store "$ACCESS_KEY" "$SECRET_KEY"
mc admin policy create store "$POLICY" /etc/vigorl/policy.json
# Attaching a second time is an error of its own, and not one for us.
if ! mc admin policy attach store "$POLICY" --user "$ACCESS_KEY"; then
    case "$(mc admin user info store "$ACCESS_KEY")" in
        *"$POLICY"*) ;;
        *) exit 1 ;;
    esac
fi
echo "bucket $BUCKET is ready"
